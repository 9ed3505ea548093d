"""Which launcher a person asks for, ``--launcher NAME`` and ``--launcher.OPTION VALUE``, and its options."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_drift.common.command_line import Text, TextParser, as_texts, plain, text_options
from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.launchers.job import Launcher

_KINDS = {
    "local": ("local_engine", "Local"),
    "ray": ("ray_engine", "Ray"),
    "slurm": ("slurm_engine", "Slurm"),
    "command": ("command_engine", "Command"),
}
NAMES = tuple(_KINDS)


@dataclass(frozen=True)
class Engine:
    """A launcher that was asked for, with its options.

    Args:
        name: One of `NAMES`.
        options: An object of its options, checked.
    """

    name: str
    options: Any

    def make(self, folder: Path, on_cpu: bool) -> Launcher:
        """The launcher.

        Args:
            folder: A folder that all machines share, for its own files.
            on_cpu: The jobs use no GPU.

        Raises:
            UserError: Its package is not installed, or the engine is not there.
        """
        launcher: Launcher = self.options.make(folder, on_cpu)
        return launcher


def _kind(name: object, option: str) -> type:
    if name not in _KINDS:
        raise UserError(f"{shown(name)} is no launcher; they are {', '.join(NAMES)}", option)
    module, kind = _KINDS[str(name)]
    return getattr(import_module(f"lightning_drift.launchers.{module}"), kind)  # type: ignore[no-any-return]


def launcher_words(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take the launcher's options out of a command line.

    Returns:
        What is given of it, its name under ``name``; and the other words.

    Raises:
        UserError: An option has no value.
    """
    given: dict[str, Any] = {}
    rest: list[str] = []
    left = iter(words)
    for word in left:
        option, has_value, value = word.partition("=")
        if isinstance(word, Text) or not (option == "--launcher" or option.startswith("--launcher.")):
            rest.append(word)
            continue
        if not has_value and (value := next(left, "")).startswith("--"):
            raise UserError("give it a value", option.removeprefix("--"))
        given[option.removeprefix("--launcher").removeprefix(".") or "name"] = Text(value)
    return given, rest


def read_launcher(section: Any, given: Mapping[str, Any], prefix: str = "") -> Engine | None:
    """The launcher of a configuration's section and a command line, which wins.

    Args:
        section: A launcher's name, or a mapping with its ``name`` and options; None for none.
        given: What `launcher_words` found.
        prefix: The section that it lies in, for messages.

    Returns:
        The engine; None where none is named.

    Raises:
        UserError: There is no such launcher, or an option of it is wrong.
    """
    option = f"{prefix}.launcher".strip(".")
    if section is not None and not isinstance(section, str | Mapping):
        raise UserError(f"{shown(section)} is neither a launcher's name nor its options", option)
    options: dict[str, Any] = {"name": section} if isinstance(section, str) else dict(section or {})
    if "name" in given and given["name"] != options.get("name"):
        options = {}  # another one's
    options = plain(options) | dict(given)
    if not options:
        return None
    name = plain(options.pop("name", None))
    if name is None:
        raise UserError(f"name the launcher that these options are for: {', '.join(NAMES)}", option)
    kind = _kind(name, option)
    texts = text_options(kind)
    parser = _parser(kind)
    words: list[Any] = []
    for key, value in options.items():
        if isinstance(value, Text):
            words += [f"--launcher.{key}", texts[key].read(value) if key in texts else str(value)]
    written = {key: value for key, value in options.items() if not isinstance(value, Text)}
    config = parser.parse_object({"launcher": as_texts(written)}) if written else None
    config = parser.parse_args(words, namespace=config)
    return Engine(str(name), kind(**plain(config.launcher.as_dict())))


def _parser(kind: type) -> TextParser:
    parser = TextParser(prog="", add_help=False, usage="")
    parser.add_class_arguments(kind, "launcher")
    return parser


def launcher_help() -> str:
    """The options of all launchers."""
    texts = []
    for name in NAMES:
        text = io.StringIO()
        _parser(_kind(name, "launcher")).print_help(text)
        lines = text.getvalue().splitlines()
        begin = next(place for place, line in enumerate(lines) if line.startswith("  --launcher."))
        texts.append("\n".join([f"Options of --launcher {name}:", *lines[begin:], "", ""]))
    return "".join(texts)
