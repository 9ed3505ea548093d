"""Where an export goes: its title, its path, and whether it may be written there."""

import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import check_writable, user_path
from lightning_drift.common.model_name import model_name
from lightning_drift.common.text import byte_size, listed
from lightning_drift.export.manifest import foreign
from lightning_drift.export.model_card import OPENRAIL_FILE
from lightning_drift.stable_diffusion.drift_dial import dial_name, from_recipe
from lightning_drift.stable_diffusion.loading import FILE_ENDINGS
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline

CHANGES = ("delta", "lora")
"""The formats that hold only what a fine-tune changed."""

_NAME_BYTES = 180
"""The longest name of an export: file systems allow 255 bytes, and the texts beside it add to theirs."""
_OTHER_FILES = FILE_ENDINGS - {".safetensors"}
"""Endings of weights' files that no export has."""
_MARGIN = 64 * 2**20  # bytes left free beside the export


def default_title(opened: OpenedPipeline) -> str:
    """``<subject>-<run>-step01200`` for a checkpoint in a run folder, else the name of the file or folder.

    A drift other than 1 is appended: ``<subject>-<run>-step01200-drift0.8``, or with each part's own
    ``…-drift-unet1-text_encoder0.5``.
    """
    path = Path(opened.source)
    step = f"step{opened.step:05d}" if opened.step is not None else None
    dialled = (opened.recipe or {}).get("drift")
    drift = "" if dialled is None else f"-{dial_name(from_recipe(dialled))}"
    if step and path.parent.name == "checkpoints":
        return "-".join((*path.parts[-4:-2], step)) + drift
    name = model_name(opened.source)
    name = f"{name}-{step}" if step and "step" not in name else name
    return name if drift in name else name + drift


def destination(to: str, form: str) -> Path:
    """The user's folder or file, tried before anything is read.

    Args:
        to: What the user gave.
        form: ``diffusers``, ``safetensors``, ``delta`` or ``lora``.

    Raises:
        UserError: It is no path or holds control characters, is a file where a folder is due, or cannot be
            written to.
    """
    place = user_path(to, "--to")
    if place.name in ("", ".."):
        place = place.resolve()
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in place.name):
        raise UserError(f"{str(place)!r} holds a control character; choose another name", "--to")
    if len(os.fsencode(place.name)) > _NAME_BYTES:
        raise UserError(f"its last part is longer than {_NAME_BYTES} bytes; choose a shorter name", "--to")
    is_file, suffix = names_file(place), place.suffix.lower()
    if form == "diffusers" and (is_file or suffix in _OTHER_FILES):
        raise UserError(f"{place} is a file's name, but --format diffusers writes a folder", "--to")
    if suffix in _OTHER_FILES and not place.is_dir():
        raise UserError(
            f"{place} is the name of a {suffix} file, and exports are .safetensors files; give a folder, or "
            "a file's name that ends in .safetensors",
            "--to",
        )
    if os.path.lexists(place) and not place.is_dir():
        if form == "diffusers":
            raise UserError(f"{place} is a file; --format diffusers needs a folder", "--to")
        if not is_file:
            raise UserError(
                f"{place} is no folder; give a folder, or a file's name that ends in .safetensors", "--to"
            )
        if not place.is_file():
            raise UserError(f"{place} is no regular file; choose another name", "--to")
    check_writable(place.parent if form == "diffusers" or is_file else place, "--to")
    return place


def names_file(place: Path) -> bool:
    """Whether a path names the file to write, and not the folder for it."""
    return place.suffix.lower() == ".safetensors"


def target_path(to: Path, title: str, form: str) -> Path:
    """The path of the export.

    Args:
        to: What `destination` gave.
        title: The model's title, which names a file in the folder.
        form: ``diffusers``, ``safetensors``, ``delta`` or ``lora``.
    """
    if form == "diffusers" or names_file(to):
        return to
    slug = re.sub(r"[^\w.+-]+", "-", title).strip("-.") or "model"
    if len(slug.encode()) > _NAME_BYTES:
        start = slug.encode()[: _NAME_BYTES - 9].decode(errors="ignore")
        slug = f"{start}-{hashlib.sha256(slug.encode()).hexdigest()[:8]}"
    return to / (f"{slug}.{form}.safetensors" if form in CHANGES else f"{slug}.safetensors")


def refuse_occupied(target: Path, source: str, form: str, overwrite: bool, texts: Mapping[str, str]) -> None:
    """Refuse a place where something else lies: nothing is replaced but what an earlier export wrote.

    Args:
        target: The path of the export.
        source: What is exported; never overwritten.
        form: ``diffusers``, ``safetensors``, ``delta`` or ``lora``.
        overwrite: Whether an earlier export may be replaced.
        texts: The texts beside or inside it, by their names.

    Raises:
        UserError: Something else lies there.
    """
    inside = form == "diffusers"
    if inside and target.is_dir():
        if any(target.iterdir()) and not (target / "model_index.json").is_file():
            raise UserError(
                f"{target} holds other files; choose an empty or new folder for the pipeline", "--to"
            )
    elif inside and os.path.lexists(target):
        raise UserError(f"{target} is a file; --format diffusers needs a folder", "--to")
    elif target.is_dir():
        raise UserError(f"{target} is a folder; choose another --to")
    if target.resolve() == Path(source).resolve():
        raise UserError(f"{target} is the model to export itself; choose another --to or --title")
    taken = occupied(target, texts, inside)
    if taken and not overwrite and not is_begun(target, taken, texts):
        if inside:
            raise UserError(f"{target} holds a pipeline; choose another --to, or replace it with --overwrite")
        raise UserError(
            f"{taken[0]} exists; choose another --to or --title, or replace an earlier export by --overwrite"
        )
    home = target if inside else target.parent
    notice = next(name for name in texts if "NOTICE" in name)
    if others := foreign(home, notice, [path.relative_to(home).as_posix() for path in taken]):
        raise UserError(
            f"no export wrote {listed(others)} in {home} as it is now, and --overwrite replaces earlier "
            "exports only; move it away or choose another --to"
        )


def is_begun(target: Path, taken: list[Path], texts: Mapping[str, str]) -> bool:
    """Whether what lies there are the texts of an export that a kill ended before its weights were there.

    Args:
        target: The path of the export.
        taken: What `occupied` gave.
        texts: The texts beside it, by their names.
    """
    notice = next(name for name in texts if "NOTICE" in name)
    beside = [path for path in taken if path.parent == target.parent]
    return (
        beside == taken
        and target not in taken
        and not foreign(target.parent, notice, [path.name for path in taken])
    )


def occupied(target: Path, texts: Mapping[str, str], inside: bool) -> list[Path]:
    """What lies where an export is to be written.

    Args:
        target: The path of the export.
        texts: The texts beside or inside it, by their names.
        inside: Whether the target is a folder with the texts in it.
    """
    if inside:
        found = sorted(target.rglob("*")) if target.is_dir() else []
        parents = {parent for path in found for parent in path.parents}
        return [path for path in found if path not in parents]
    places = [target, *(target.with_name(name) for name in texts)]
    return [path for path in places if os.path.lexists(path) and not _is_same_licence(path, texts)]


def _is_same_licence(path: Path, texts: Mapping[str, str]) -> bool:
    """Several exports in one folder share the licence."""
    return (
        path.name == OPENRAIL_FILE
        and path.is_file()
        and not path.is_symlink()
        and path.read_bytes() == texts[OPENRAIL_FILE].encode()
    )


def refuse_full(target: Path, size: int) -> None:
    """Refuse a disk without room for so many bytes.

    Raises:
        UserError: The disk is full.
    """
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < size + _MARGIN:
        raise UserError(
            f"no room for {target}: it needs {byte_size(size + _MARGIN)} and {byte_size(free)} are free"
        )
