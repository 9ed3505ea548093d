"""ImageWriter: finished pictures to disk, complete or not at all, and never twice."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Literal, Protocol

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from lightning_drift.common.ends import held
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import user_path
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.images.picture import Picture, parameters_digest
from lightning_drift.images.png import is_made_by, stored_parameters, write_png
from lightning_drift.images.tiff import stored_parameters as tiff_parameters
from lightning_drift.images.tiff import write_tiff

_SHEET_BY = "lightning-drift contact sheet"
SHEET_SIDE = 8192  # pixels; the contact sheet's thumbnails shrink to stay below it
MOST_ALONG_SIDE = 100
"""Rows and columns of a contact sheet at most."""


@dataclass(frozen=True)
class _Format:
    ending: str
    write: Callable[[Path, Picture], None]
    stored: Callable[[Path], str | None]


_FORMATS = {
    "png": _Format(".png", write_png, stored_parameters),
    "tiff": _Format(".tif", write_tiff, tiff_parameters),
}


class Describes(Protocol):
    """A module whose pictures can be named before they are made."""

    def describe(self, request: Any) -> tuple[str, dict[str, str]]:
        """The file name (without ending) and the PNG text chunks that the request's picture will have.

        A module whose pictures have another one beside them says the same of that one in ``describe_beside``,
        or None for a request without.
        """


class ImageWriter(BasePredictionWriter):
    """Writes each finished picture with its parameters in its file, and a contact sheet at the end.

    A picture that is on disk already, with the same ``parameters`` text (which holds the model's hash), is
    not made again. A file of that name with other parameters is left alone: the new picture's name then ends
    in eight hexadecimal digits. Files appear whole or not at all.

    Where the data is a ``share`` of the pictures, other processes write into the same folder: there is no
    contact sheet then, and a line says what the command without it does.

    Args:
        output_dir: Folder for the pictures; made if missing.
        format: Of the pictures: png, or tiff, which print shops ask for; a sweep's are png.
        contact_sheet: Also write ``contact_sheet.png``: rows are prompts, columns are seeds.
    """

    def __init__(
        self,
        output_dir: str = "dreams",
        format: Literal["png", "tiff"] = "png",
        contact_sheet: bool = True,
    ) -> None:
        super().__init__(write_interval="batch")
        self.format = _FORMATS[format]
        self.output_dir = user_path(output_dir, "image_writer.output_dir")
        self.contact_sheet = contact_sheet
        self.written: list[Path] = []
        self.skipped: list[Path] = []
        self._sheet: dict[tuple[str, str], Path] = {}  # by row and column

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the folder before any time is spent.

        Raises:
            UserError: If the folder cannot be made or written to.
        """
        if stage == "predict":
            try:
                self.output_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = (
                    f"image_writer.output_dir: cannot make the folder {self.output_dir}: {error.strerror}"
                )
                raise UserError(message) from error

    def path(self, name: str, text: Mapping[str, str]) -> tuple[Path, bool]:
        """Where a picture belongs, and whether it is there already."""
        digest = parameters_digest(text["parameters"])
        ending = self.format.ending
        path = self.output_dir / f"{name}{ending}"
        ours = path if name.endswith(f"_{digest}") else path.with_name(f"{path.stem}_{digest}{ending}")
        for candidate in (path, ours):
            if not os.path.lexists(candidate):  # a link to nothing is somebody's too
                return candidate, False
            if candidate.is_file() and self.format.stored(candidate) == text["parameters"]:
                return candidate, True
        return ours, False  # that name is ours: a damaged file is made again

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: list[Any], *_: object, **__: object
    ) -> None:
        """Strike from the batch what is on disk already."""
        module: Describes = pl_module  # type: ignore[assignment]
        describe_beside: Any = getattr(module, "describe_beside", lambda _: None)
        wanted = []
        for request in batch:
            path, done = self.path(*module.describe(request))
            beside = describe_beside(request)
            if done and (not beside or self.path(*beside)[1]):
                self.skipped.append(path)
                self._sheet[getattr(request, "row", ""), getattr(request, "column", path.stem)] = path
            else:
                wanted.append(request)
        batch[:] = wanted

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Sequence[Picture],
        *_: object,
    ) -> None:
        """Write a batch of finished pictures.

        Raises:
            UserError: If a file cannot be written, for example because the disk is full.
        """
        for picture in prediction or ():
            path, done = self.path(picture.name, picture.text)
            with held():  # what is written is counted
                if picture.beside is not None:
                    self.format.write(self.path(picture.beside.name, picture.beside.text)[0], picture.beside)
                if not done:
                    self.format.write(path, picture)
                    self.written.append(path)
            self._sheet[picture.row, picture.column or path.stem] = path

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the contact sheet of what all devices made or found; for a share, say what follows it."""
        shares: list[Any] = [(self._sheet, self.written, self.skipped)]
        if trainer.world_size > 1:
            import torch.distributed as dist

            shares = [None] * trainer.world_size
            dist.all_gather_object(shares, (self._sheet, self.written, self.skipped))
            self.written = [path for _, written, _ in shares for path in written]
            self.skipped = [path for _, _, skipped in shares for path in skipped]
        data = getattr(trainer, "datamodule", None)
        if getattr(data, "share", None) is not None:
            if trainer.is_global_zero:
                print("\n" + self._after(data))
            return
        entries = {key: path for sheet, _, _ in shares for key, path in sheet.items()}
        if self.contact_sheet and len(entries) > 1 and trainer.is_global_zero:
            self._write_sheet(entries)

    def _after(self, data: Any) -> str:
        """What the command without ``data.share`` does, once all shares are there."""
        written = [getattr(data, "follows", ""), "the contact sheet" if self.contact_sheet else ""]
        does = f"writes {' and '.join(filter(None, written))}" if any(written) else "finds every picture"
        return f"Share {data.share} is done; once all are, the same command without data.share {does}"

    def _write_sheet(self, entries: Mapping[tuple[str, str], Path]) -> None:
        rows = list(dict.fromkeys(row for row, _ in entries))
        columns = sorted({column for _, column in entries}, key=lambda name: (len(name), name))
        unnamed, limit = not any(rows), MOST_ALONG_SIDE
        even = unnamed and len(columns) > limit  # no row would hold them
        rows, columns = rows[:limit], columns[: limit**2 if even else limit]
        shown = [(row, column) for row in rows for column in columns]
        if left := len(entries) - sum(key in entries for key in shown):
            notice(f"the contact sheet shows {len(entries) - left:,} of {len(entries):,} pictures")
        along = ceil(sqrt(len(columns))) if even else max(len(columns), len(rows))
        side = SHEET_SIDE * 3 // 4 if even else SHEET_SIDE  # captions take room too
        limit = max(32, side // along)
        images: list[Image.Image] = []
        for key in shown:
            image = Image.new("RGB", (8, 8))  # a picture that is not there
            if key in entries:
                with suppress(UndecodableError):  # damaged since it was made: its cell stays black
                    image = decode(entries[key]).image
                image.thumbnail((limit, limit))
            images.append(image)
        if even:
            sheet = contact_sheet(images, captions=columns, per_row=along, side=side)
        else:
            sheet = contact_sheet(images, rows=None if unnamed else rows, columns=columns, side=side)
        path = self.output_dir / "contact_sheet.png"
        if os.path.lexists(path) and not (path.is_file() and is_made_by(path, _SHEET_BY)):
            notice(f"{path} is no contact sheet of lightning-drift; it stays, and no sheet is written")
            return
        write_png(path, Picture(None, "contact_sheet", sheet, {"Software": _SHEET_BY}))
