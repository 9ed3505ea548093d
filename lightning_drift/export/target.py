"""Where an export goes: its title, its path, and whether it may be written there."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_drift.common.errors import UserError
from lightning_drift.common.model_name import model_name
from lightning_drift.common.text import byte_size
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline

CHANGES = ("delta", "lora")
"""The formats that hold only what a fine-tune changed."""

_MARGIN = 64 * 2**20  # bytes left free beside the export


def default_title(opened: OpenedPipeline) -> str:
    """``<subject>-<run>-step01200`` for a checkpoint in a run folder, else the name of the file or folder.

    A drift other than 1 is appended: ``<subject>-<run>-step01200-drift0.8``.
    """
    path = Path(opened.source)
    step = f"step{opened.step:05d}" if opened.step is not None else None
    drift = f"-drift{opened.recipe['drift']:g}" if opened.recipe and "drift" in opened.recipe else ""
    if step and path.parent.name == "checkpoints":
        return "-".join((*path.parts[-4:-2], step)) + drift
    name = model_name(opened.source)
    name = f"{name}-{step}" if step and "step" not in name else name
    return name if drift in name else name + drift


def target_path(to: Path, title: str, form: str) -> Path:
    """The path of the export.

    Args:
        to: The user's folder or, in ``.safetensors``, file.
        title: The model's title, which names a file in the folder.
        form: ``diffusers``, ``safetensors``, ``delta`` or ``lora``.

    Raises:
        UserError: A file's name was given for a folder.
    """
    if form == "diffusers":
        if to.suffix in {".safetensors", ".ckpt"}:
            raise UserError(f"{to} is a file's name, but --format diffusers writes a folder", "--to")
        return to
    if to.suffix == ".safetensors":
        return to
    slug = re.sub(r"[^\w.+-]+", "-", title).strip("-.") or "model"
    return to / (f"{slug}.{form}.safetensors" if form in CHANGES else f"{slug}.safetensors")


def refuse_occupied(target: Path, source: str, form: str, overwrite: bool) -> None:
    """Refuse a place where something else lies.

    Args:
        target: The path of the export.
        source: What is exported; never overwritten.
        form: ``diffusers``, ``safetensors``, ``delta`` or ``lora``.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        UserError: Something else lies there.
    """
    if form == "diffusers":
        _refuse_occupied_folder(target, overwrite)
    elif target.is_dir():
        raise UserError(f"{target} is a folder; choose another --to")
    elif target.exists() and not overwrite:
        raise UserError(f"{target} exists; choose another --to or --title, or replace it with --overwrite")
    if target.resolve() == Path(source).resolve():
        raise UserError(f"{target} is the model to export itself; choose another --to or --title")


def _refuse_occupied_folder(target: Path, overwrite: bool) -> None:
    if target.is_file():
        raise UserError(f"{target} is a file; --format diffusers needs a folder")
    if target.is_dir() and any(target.iterdir()):
        if not (target / "model_index.json").is_file():
            raise UserError(f"{target} holds other files; choose an empty or new folder for the pipeline")
        if not overwrite:
            raise UserError(f"{target} holds a pipeline; choose another --to, or replace it with --overwrite")


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


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn the system's errors while writing into a sentence.

    Raises:
        UserError: The export cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
