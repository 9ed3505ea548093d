"""The corridor on one contact sheet: rows are learning rates, columns steps, each cell four pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from lightning_drift.corridor.grids import Place, picture_files
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.sampled_runs import how_many
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.corridor.wording import labels
from lightning_drift.images.contact_sheet import GROUND, contact_sheet
from lightning_drift.images.decode import UndecodableError, decode

COLOURS = {
    "under-drifted": (129, 153, 179),
    "dreaming": (95, 174, 147),
    "forgetting": (214, 165, 80),
    "cooked": (217, 119, 95),
    "broken": (165, 140, 203),
}
_LARGEST, _WITHOUT_PICTURES = 512, 192  # sides of a cell
_HEIGHT = 16_000  # pixels of a sheet, roughly; higher ones many viewers do not open
_TEXTS = 70  # pixels of a row beside its pictures


def overview(table: CorridorTable, shown: Sequence[int] | None = None) -> Image.Image:
    """Lay out the cells, each with a bar in its zone's colour and the verdict below; the base at the left.

    Args:
        table: The corridor.
        shown: The positions of the runs that become rows; None for all.
    """
    runs = table.runs if shown is None else [table.runs[index] for index in shown]
    names = labels(table)
    images, captions = [], []
    files = picture_files(table)
    side = _side(files.values(), len(runs))
    for run in runs:
        for step in (0, *table.steps):
            cell = table.cells.get((run.name, step))
            image = _four(files, run, step, side)
            if cell is not None and cell.zone is not None:
                height = max(2, side // 40)
                image.paste(COLOURS[cell.zone], (0, image.height - height, image.width, image.height))
            images.append(image)
            if cell is None:
                captions.append("base model")
            elif cell.zone is None:
                captions.append(cell.state)
            else:
                position = "" if cell.position is None else f" {cell.position:.0f}"
                border = f", near {cell.borderline}" if cell.borderline else ""
                captions.append(f"{cell.zone}{position}{border}")
    columns = ["base", *(f"{step} steps" for step in table.steps)]
    rows = names if shown is None else [names[index] for index in shown]
    told = how_many(table, len(runs))
    title = f"{table.title}: the corridor" + (f", {told}" if told else "")
    return contact_sheet(images, rows, columns, captions, title)


def _four(files: Mapping[Place, Path], run: RecordedRun, step: int, side: int) -> Image.Image:
    """The first seeds of the first prompt and of the next ones, in a square."""
    pairs = [(prompt, seed) for prompt, seeds in run.prompts.items() for seed in seeds[:2]][:4]
    square = Image.new("RGB", (side, side + max(2, side // 40)), GROUND)
    half = side // 2
    for index, (prompt, seed) in enumerate(pairs):
        path = files.get(Place(run.name, step, prompt, seed))
        picture = _picture(path)
        if picture is not None:
            tile = picture.resize((half, half), Image.Resampling.LANCZOS)
            square.paste(tile, ((index % 2) * half, (index // 2) * half))
    return square


def _side(files: Iterable[Path], rows: int) -> int:
    """Twice the pictures' own size, as far as it fits a cell and the sheet's height."""
    largest = max(_WITHOUT_PICTURES, min(_LARGEST, _HEIGHT // rows - _TEXTS))
    for path in files:
        picture = _picture(path)
        if picture is not None:
            return min(largest, 2 * max(picture.size))
    return _WITHOUT_PICTURES


def _picture(path: Path | None) -> Image.Image | None:
    """A picture; None where there is none or it is damaged, which the page has said."""
    try:
        return None if path is None else decode(path).image
    except UndecodableError:
        return None
