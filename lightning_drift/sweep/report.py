"""What a sweep writes once all pictures are there: measures, index, tables, contact sheets, ranking page."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.text import listed, printable
from lightning_drift.drift.default_clip import default_clip
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.frozen_clip import FrozenClip
from lightning_drift.drift.state import DriftState
from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.png import save_png
from lightning_drift.photos.folder import find_folder, find_pictures
from lightning_drift.sweep.cells import Cell, Grid, SweepRequest
from lightning_drift.sweep.index import Index
from lightning_drift.sweep.index_head import INDEX
from lightning_drift.sweep.measure import SweepFeatures, measure
from lightning_drift.sweep.models import SweepModel
from lightning_drift.sweep.page import PAGE, write_page
from lightning_drift.sweep.sheets import sheets
from lightning_drift.sweep.summary import summary

TABLES = "tables.md"
THUMBNAIL = 256
"""Longest side of a thumbnail; smaller pictures are their own."""
_CHUNK = 64


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder whose files of a sweep's names are no sweep's: they would be written over.

    A sweep's folder is known by its index, which is written first.

    Raises:
        UserError: Such a file lies there, and the index is missing or not of a sweep.
    """
    names = (INDEX, TABLES, PAGE, "sheets", "thumbnails")
    taken = [name for name in names if os.path.lexists(folder / name)]
    if taken and not Index.is_at(folder / INDEX):
        raise UserError(
            f"{folder} holds {listed(taken)}, which no sweep wrote; choose another folder",
            "image_writer.output_dir",
        )


class SweepReport(Callback):
    """Measures a sweep's pictures and writes its report, in the first process, once all are there."""

    def __init__(self) -> None:
        self._clip: FrozenClip | None = None
        self._photos: dict[str, Features] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the CLIP and the photos before any time is spent; for a share, see that these are there."""
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data.share is not None:
            if data.measure and data.photos is not None:
                _photo_files(data.photos)
            return
        self._clip = _clip(data.clip, data.models) if data.measure else None
        self._photos = _photos(data.photos, data.models, self._clip) if data.measure else {}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything; nothing for a share, whose pictures are not all there are.

        Raises:
            UserError: A file cannot be written, for example because the disk is full.
        """
        trainer.strategy.barrier("sweep")
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module: Any = pl_module
        module.release()
        if data.share is not None:
            return
        writer = next(c for c in trainer.callbacks if isinstance(c, ImageWriter))  # type: ignore[attr-defined]
        names = {request: f"{module.describe(request)[0]}.png" for request in data.grid.pictures()}
        try:
            self._write(data, names, writer.output_dir, module)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"cannot write {error.filename or writer.output_dir}: {reason}. All pictures are there; the "
                "same command goes on"
            ) from error

    def _write(self, data: Any, names: Mapping[SweepRequest, str], folder: Path, module: Any) -> None:
        thumbnails = _thumbnails(folder, names.values())
        grid, names = _readable(data.grid, names, thumbnails)
        measures: list[dict[str, float]] = [{} for _ in grid.cells]
        if data.measure:
            measures = self._measure(grid, names, folder, module.device)
        files, bases = ([names[request] for request in requests] for requests in (grid.requests, grid.bases))
        maps = [_map_file(folder, module.describe_beside(request)) for request in grid.requests]
        index = Index.of(grid.cells, files, bases, measures, maps)
        index.save(folder / INDEX)
        title = folder.resolve().name
        with atomic_write(folder / TABLES) as file:
            file.write(summary(index, title).encode())
        count = 0
        for name, sheet in sheets(index, folder, data.sheet_axes, data.sheets) if data.sheets else ():
            save_png(folder / "sheets" / f"{name}.png", sheet)
            count += 1
        write_page(folder / PAGE, index, thumbnails, title, _command_facts(data, module))
        sheet_count = f"{count} contact sheet{'s' * (count != 1)} in {folder / 'sheets'}, " if count else ""
        print("\n" + printable(f"{sheet_count}the index in {folder / INDEX}, means in {folder / TABLES}"))
        print(printable(f"Rank them:    {folder / PAGE}"))

    def _measure(
        self, grid: Grid, names: Mapping[SweepRequest, str], folder: Path, device: torch.device
    ) -> list[dict[str, float]]:
        requests = list(names)
        place = {request: index for index, request in enumerate(requests)}
        clip = self._clip.to(device) if self._clip else None
        chunks = []
        for start in tqdm(range(0, len(requests), _CHUNK), desc="measuring", leave=False):
            images = []
            for request in requests[start : start + _CHUNK]:
                images.append(decode(folder / names[request]).image)
            chunks.append(Features.of(images, clip).tensors())
        features = Features.from_tensors(
            {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        )
        texts = _texts(grid.cells, clip) if clip else None
        now, base = ([place[request] for request in some] for some in (grid.requests, grid.bases))
        return measure(grid.cells, SweepFeatures(features, now, base, texts, self._photos))


def _map_file(folder: Path, described: tuple[str, Any] | None) -> str | None:
    """The file of a picture's map, where there is one."""
    name = f"{described[0]}.png" if described else None
    return name if name and (folder / name).exists() else None


def _texts(cells: list[Cell], clip: FrozenClip) -> dict[str, Tensor]:
    prompts = list(dict.fromkeys(cell.prompt.text for cell in cells))
    return dict(zip(prompts, clip.embed_texts(prompts), strict=True))


def _clip(clip: str | None, models: Mapping[str, SweepModel]) -> FrozenClip | None:
    """The CLIP; None, with a notice, where it cannot be loaded: then only what needs no CLIP is measured."""
    if clip == "auto":
        clip = default_clip(*((model.base or model).opened for model in models.values()))
    try:
        return FrozenClip.load(clip, option="data.clip") if clip else None
    except UserError as error:
        notice(f"{error}. Until then only what needs no CLIP is measured")
        return None


def _photos(
    given: str | None, models: Mapping[str, SweepModel], clip: FrozenClip | None
) -> dict[str, Features]:
    """Features of the photos by checkpoint."""
    if given is not None:
        try:
            images = [decode(path).image for path in _photo_files(given)]
        except UndecodableError as error:
            raise UserError(str(error), "data.photos") from error
        found = {}
        for name, model in models.items():
            if model.base is not None:
                height, width = model.size(None, None)
                squares = [ImageOps.fit(image, (width, height)) for image in images]
                found[name] = Features.of(squares, clip)
        return found
    kept = {name: _kept_photos(model, clip) for name, model in models.items()}
    return {name: photos for name, photos in kept.items() if photos is not None}


def _photo_files(given: str) -> list[Path]:
    """The photos in a folder.

    Raises:
        UserError: There is no such folder, or none in it.
    """
    try:
        return find_pictures(find_folder(given))
    except UserError as error:
        raise error.of("data.photos") from error


def _kept_photos(model: SweepModel, clip: FrozenClip | None) -> Features | None:
    """What ClipDrift kept of the photos in a checkpoint; without embeddings if another CLIP saw them."""
    if model.base is None or not model.opened.source.endswith(".ckpt"):
        return None
    state = DriftState.from_checkpoint(model.opened.source)
    try:
        photos, base = state.photos(), state.base()
    except UserError:
        return None
    if photos is None or base is None:
        return None
    return photos if clip is not None and base.clip_hash == clip.hash else replace(photos, clip=None)


def _thumbnails(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The file that the page shows small for each picture; a notice for each picture that cannot be read."""
    thumbnails = {}
    for name in dict.fromkeys(names):
        try:
            thumbnails[name] = _thumbnail(folder, name)
        except UndecodableError as error:
            notice(f"{folder / name} {error}; the report is without it")
    return thumbnails


def _readable(
    grid: Grid, names: Mapping[SweepRequest, str], pictures: Mapping[str, str]
) -> tuple[Grid, dict[SweepRequest, str]]:
    """The cells whose pictures can be read, and their names.

    Raises:
        UserError: There is none.
    """
    left = {request: name for request, name in names.items() if name in pictures}
    if len(left) == len(names):
        return grid, left
    readable = Grid()
    for place, (cell, request) in enumerate(zip(grid.cells, grid.requests, strict=True)):
        if request in left and (not grid.bases or grid.bases[place] in left):
            readable.cells.append(cell)
            readable.requests.append(request)
            readable.bases += grid.bases[place : place + 1]
    if not readable.cells:
        raise UserError("none of the sweep's pictures can be read; delete them and give the command again")
    return readable, left


def _thumbnail(folder: Path, name: str) -> str:
    """The file that the page shows small: a picture itself, or a smaller copy where it is large.

    Raises:
        UndecodableError: The picture cannot be read.
    """
    source, target = folder / name, folder / "thumbnails" / f"{Path(name).stem}.webp"
    small = target.relative_to(folder).as_posix()
    if _is_thumbnail(target, source):  # made of it, so it could be read
        return small
    image = decode(source).image
    if max(image.size) <= THUMBNAIL:
        return name
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    with atomic_write(target) as file:
        image.save(file, format="WEBP", quality=82)
    return small


def _is_thumbnail(target: Path, source: Path) -> bool:
    """Whether a thumbnail is there, whole, and not older than its picture."""
    try:
        new = target.stat().st_mtime_ns >= source.stat().st_mtime_ns
        return new and max(decode(target).image.size) == THUMBNAIL
    except (OSError, UndecodableError):
        return False


def _command_facts(data: Any, module: Any) -> dict[str, Any]:
    """The options, beside the cell's own parameters, of a command that makes one of the pictures again."""
    return {
        "negative_prompt": module.sampling.negative_prompt,
        "height": module.sampling.height,
        "width": module.sampling.width,
        "generator_device": module.sampling.generator_device,
        "dtype": module.dtype_name,
        "base": data.base,
    }
