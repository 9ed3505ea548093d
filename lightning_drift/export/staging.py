"""An export before it lies at its place: written beside it, looked at, then renamed, all or nothing."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_drift.common.atomic import atomic_write, private_folder
from lightning_drift.common.ends import Ended
from lightning_drift.common.errors import UserError
from lightning_drift.export.manifest import signed
from lightning_drift.export.model_card import OPENRAIL_FILE
from lightning_drift.export.target import is_begun, occupied
from lightning_drift.weights.hashes import sha256


class Staging:
    """Where an export is written before it is renamed to its place.

    Args:
        folder: A private folder beside the target.
        target: The export's file or folder.
        form: ``diffusers``, ``safetensors``, ``delta`` or ``lora``.
        overwrite: Whether an earlier export may be replaced.

    Attributes:
        path: Where to write the file or folder; it has the target's name.
        is_published: Whether it lies at its place.
    """

    def __init__(self, folder: Path, target: Path, form: str, overwrite: bool) -> None:
        self.path = folder / target.name
        self._target = target
        self._inside = form == "diffusers"
        self._overwrite = overwrite
        self.is_published = False

    def publish(self, texts: Mapping[str, str]) -> None:
        """Write the texts, flush everything to disk, and rename it to its place.

        Args:
            texts: The model card, the notice and the licence by their names; the notice gains the list of the
                export's files.

        Raises:
            UserError: Something else has appeared there meanwhile.
            OSError: A file cannot be written.
        """
        home = self.path if self._inside else self.path.parent
        notice = next(name for name in texts if "NOTICE" in name)
        for name, text in texts.items():
            if name != notice:
                _write(home / name, text)
        names = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
        if not self._inside:
            names = [
                name for name in names if name != OPENRAIL_FILE
            ]  # the other exports in the folder share it
        former = {} if self._inside else self._former(texts, notice)
        last = signed(texts[notice], home, names, {})
        _write(home / notice, signed(texts[notice], home, names, former))
        for path in home.rglob("*"):
            if path.is_file():
                path.chmod(
                    (home / notice).stat().st_mode
                )  # safetensors makes files only their owner can read
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        taken = occupied(self._target, texts, self._inside)
        if taken and not self._overwrite and not is_begun(self._target, taken, texts):
            raise UserError(
                f"{taken[0]} has appeared while the export was made; choose another place", "--to"
            )
        if self._inside:
            self._publish_folder()
        else:
            # The notice first, which knows all the others, and the weights last: they stand for the export.
            for name in sorted(
                [self._target.name, *texts], key=lambda name: (name != notice, name not in texts)
            ):
                os.replace(home / name, self._target.with_name(name))
            self.is_published = True
            if former:  # all is there: the notice need not know what was replaced any more
                _write(self._target.with_name(notice), last)

    def _former(self, texts: Mapping[str, str], notice: str) -> dict[str, str]:
        """The sha256 of what is about to be replaced, the notice left out."""
        taken = [path for path in occupied(self._target, texts, self._inside) if path.name != notice]
        return {path.name: sha256(path) for path in taken if path.is_file()}

    def _publish_folder(self) -> None:
        old = self.path.with_name("old")
        if self._target.is_dir():
            self._target.rename(old)
        try:
            self.path.rename(self._target)
        except BaseException:
            if old.exists():
                old.rename(self._target)
            raise
        self.is_published = True


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


@contextmanager
def staging(target: Path, form: str, overwrite: bool) -> Iterator[Staging]:
    """A place to write an export to; whatever ends it, nothing but a published export stays.

    Args:
        target: The export's file or folder.
        form: ``diffusers``, ``safetensors``, ``delta`` or ``lora``.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        UserError: It cannot be written.
    """
    missing = [parent for parent in target.absolute().parents if not parent.exists()]
    stage = None
    try:
        with private_folder(target) as folder:
            stage = Staging(folder, target, form, overwrite)
            yield stage
    except Ended as end:
        if stage is not None and stage.is_published:
            end.reached = f"when {target} was written, with nothing left to do"
        raise
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        for parent in missing:
            with suppress(OSError):  # it holds the export
                parent.rmdir()
