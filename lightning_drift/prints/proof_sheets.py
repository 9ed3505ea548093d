"""Proof sheets: the same part of a print at several settings, as a grid, found among files or just made."""

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.images.decode import UndecodableError, decode, read_file
from lightning_drift.images.infotext import settings_of
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import is_made_by, write_png
from lightning_drift.images.png_chunks import text_of
from lightning_drift.prints.images import UpscaleRequest

SHEET_BY = "lightning-drift proof sheet"
SHEET_SIDE = 8192
"""Pixels of a sheet's pictures along a side; larger ones shrink."""
MOST_CELLS = 400
"""Cells of a sheet at most."""
_CONTROL, _SCALE = "Control scale", "CFG scale"
_NAME = re.compile(r"(.+)_control[0-9][^_]*_cfg[0-9][^_]*(?:_[0-9a-f]{8})?\.png")


@dataclass(frozen=True)
class ProofCell:
    """One picture of a sheet.

    Attributes:
        path: Its file.
        text: The file's parameters.
        control_scale: How closely the picture's own structure is followed, 0 to 1.
        s_cfg: Guidance scale at the end of sampling.
    """

    path: Path
    text: str
    control_scale: float
    s_cfg: float


@dataclass(frozen=True)
class ProofSheet:
    """Cells that differ in these two settings alone."""

    cells: list[ProofCell]

    @property
    def rows(self) -> list[float]:
        """The control scales, ascending."""
        return sorted({cell.control_scale for cell in self.cells})

    @property
    def columns(self) -> list[float]:
        """The guidance scales, ascending."""
        return sorted({cell.s_cfg for cell in self.cells})

    @property
    def settings(self) -> dict[str, str]:
        """What all cells share."""
        return _shared(self.cells[0].text)

    def labelled(self, title: str) -> Image.Image:
        """The sheet as one picture; cells that are missing or damaged stay black."""
        at = {(cell.control_scale, cell.s_cfg): cell.path for cell in self.cells}
        limit = max(32, SHEET_SIDE // max(len(self.rows), len(self.columns)))
        images = []
        for place in ((row, column) for row in self.rows for column in self.columns):
            image = Image.new("RGB", (8, 8))
            if place in at:
                with suppress(UndecodableError):
                    image = decode(at[place]).image
            image.thumbnail((limit, limit))
            images.append(image)
        return contact_sheet(
            images,
            rows=[f"control_scale {row:g}" for row in self.rows],
            columns=[f"s_cfg {column:g}" for column in self.columns],
            title=title,
            side=SHEET_SIDE,
        )


def sheet_of(found: Iterable[tuple[Path, str]]) -> ProofSheet | None:
    """The sheet of files with their parameters; None where none is a cell of one."""
    cells = [cell for path, text in found if (cell := _cell(path, text)) is not None]
    return ProofSheet(cells) if cells else None


def proof_files(folder: Path) -> dict[str, list[Path]]:
    """The files in a folder that are called as cells are, by the name of their print."""
    found: dict[str, list[Path]] = {}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return {}
    for name in names:
        if match := _NAME.fullmatch(name):
            found.setdefault(match[1], []).append(folder / name)
    return found


def found_sheet(request: UpscaleRequest, files: Iterable[Path]) -> ProofSheet | None:
    """The sheet of a print among files: of several, the one that was made last.

    What cannot be read, or was made of another picture or with another seed, is passed over.
    """
    groups: dict[tuple[object, ...], list[ProofCell]] = {}
    for path in files:
        try:
            text = text_of(read_file(path), "parameters") or ""
        except UndecodableError:
            continue
        settings = settings_of(text)
        wanted = {"Input hash": request.content, "Seed": f"{request.seed}"}
        if any(settings.get(name) != value for name, value in wanted.items()) or "Detail" not in settings:
            continue
        cell = _cell(path, text)
        if cell is not None:
            key = (text.rpartition("\n")[0], *sorted(_shared(text).items()))
            groups.setdefault(key, []).append(cell)
    sheets = [ProofSheet(cells) for cells in sorted(groups.values(), key=_newest)]
    sheets = [sheet for sheet in sheets if len(sheet.rows) * len(sheet.columns) <= MOST_CELLS]
    return sheets[-1] if sheets else None


def write_sheet(path: Path, sheet: ProofSheet, title: str) -> bool:
    """Write a sheet as one labelled PNG; False where a file of another's lies there, which stays.

    Raises:
        UserError: It cannot be written.
    """
    if (path.exists() or path.is_symlink()) and not (path.is_file() and is_made_by(path, SHEET_BY)):
        return False
    write_png(path, Picture(None, path.stem, sheet.labelled(title), {"Software": SHEET_BY}))
    return True


def _newest(cells: list[ProofCell]) -> float:
    def written(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0

    return max(written(cell.path) for cell in cells)


def _shared(text: str) -> dict[str, str]:
    return {name: value for name, value in settings_of(text).items() if name not in (_CONTROL, _SCALE)}


def _cell(path: Path, text: str) -> ProofCell | None:
    settings = settings_of(text)
    try:
        control, scale = float(settings[_CONTROL]), float(settings[_SCALE])
    except (KeyError, ValueError):
        return None
    if not (math.isfinite(scale) and 0 <= control <= 1 and scale >= 0):
        return None
    return ProofCell(path, text, control, scale)
