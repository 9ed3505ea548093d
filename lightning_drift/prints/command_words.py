"""Commands that follow from the one that made prints: one picture alone, its proof sheet, a cell in full."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.common.text import command
from lightning_drift.common.yaml_files import read_yaml_section

PROOFS = "proofs"
"""The folder of proofs within that of the prints."""
_CONFIG = "proof.yaml"
_OF_PROOFS = ("control_scale", "s_cfg", "steps", "side", "at")
_CLASSES = ("data", "data.class_path")


@dataclass(frozen=True)
class _Option:
    """An option of a command line: which of its words it is, its name without hyphens, its value."""

    span: range
    name: str
    value: str


def print_command(words: Sequence[str], path: Path, settings: Mapping[str, float] | None = None) -> str:
    """The command that makes one picture in full.

    Args:
        words: The command line that made prints or proofs, after the program's name.
        path: The picture's image file.
        settings: Options of the model to take instead of the command's, such as ``control_scale``.
    """
    if output := _of_prints(words):
        words = output
    model = {f"model.{name}": f"{value:g}" for name, value in (settings or {}).items()}
    return command(_changed(words, {"data.images": fspath(path), **model}, without=("data.share",)))


def proof_command(words: Sequence[str], path: Path, folder: Path) -> str:
    """The command that makes the proof sheet of a picture.

    Args:
        words: The command line that made prints, after the program's name.
        path: The picture's image file.
        folder: Where the prints lie.
    """
    near = [Path(each.value).with_name(_CONFIG) for each in _options(words) if each.name == "config"]
    config = next((place for place in near if place.is_file()), Path("configs") / _CONFIG)
    changed = {"data.images": fspath(path), "image_writer.output_dir": fspath(folder / PROOFS)}
    kept = _changed(words, {}, without=("data.share", *changed))
    return command(_changed([*kept, "-c", fspath(config)], changed))


def _of_prints(words: Sequence[str]) -> list[str] | None:
    """A command of proofs as that of its prints; None for one that makes no proofs.

    Its configurations of proofs alone go, and so do the proofs' own options. Where it says where proofs lie,
    prints lie above.
    """
    options = _options(words)
    overlays = [each for each in options if each.name == "config" and _is_overlay(each.value)]
    named = any(each.name in _CLASSES and _is_proofs(each.value) for each in options)
    if not overlays and not named:
        return None
    gone = {place for each in overlays for place in each.span}
    kept = [word for place, word in enumerate(words) if place not in gone]
    output = [each.value for each in options if each.name == "image_writer.output_dir"]
    changed = {"data": "lightning_drift.UpscaleImages"} if named else {}
    if output and Path(output[-1]).name == PROOFS:
        changed["image_writer.output_dir"] = fspath(Path(output[-1]).parent)
    without = ["image_writer.output_dir", *(f"data.{name}" for name in _OF_PROOFS)]
    return _changed(kept, changed, [*without, *_CLASSES] if named else without)


def _changed(words: Sequence[str], options: Mapping[str, str], without: Iterable[str] = ()) -> list[str]:
    """A command line with options set, in place of their earlier values, and without others."""
    gone = {*options, *without}
    places = {place for each in _options(words) if each.name in gone for place in each.span}
    kept = [word for place, word in enumerate(words) if place not in places]
    for name, value in options.items():
        kept += [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]
    return kept


def _options(words: Sequence[str]) -> list[_Option]:
    """The options of a command line in order, configurations under the name ``config``."""
    found, place = [], 0
    while place < len(words):
        begin, word = place, words[place]
        name, joined, value = word.partition("=")
        place += 1
        if word.startswith("-c") and word != "-c":
            name, joined, value = "-c", "=", word[2:]
        elif not word.startswith("--") and name != "-c":
            continue
        following = words[place] if place < len(words) else "--"
        if not joined and (name in ("-c", "--config") or not following.startswith(("--", "-c"))):
            value, place = following, place + 1
        name = "config" if name == "-c" else name[2:].removesuffix("+").replace(".init_args.", ".")
        found.append(_Option(range(begin, place), name, value))
    return found


def _is_proofs(class_path: object) -> bool:
    return str(class_path).rpartition(".")[2] == "Proofs"


def _is_overlay(value: str) -> bool:
    """Whether a configuration asks for proofs and names no model: one to be laid over that of prints."""
    try:
        config = read_yaml_section(user_path(value, "-c"), "configuration", "-c")
    except UserError:
        return False
    data, model = config.get("data"), config.get("model")
    names_model = isinstance(model, dict) and "class_path" in model
    return isinstance(data, dict) and _is_proofs(data.get("class_path")) and not names_model
