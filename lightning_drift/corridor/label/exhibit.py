"""What is shown to a labeller: pictures, prompts and photos, and nothing that names a cell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError, notice
from lightning_drift.corridor import recipe
from lightning_drift.corridor.blind import measures_at, shuffled
from lightning_drift.corridor.grids import Place, picture_files, seeds_by_prompt
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.pages.thumbnails import data_uri

SIDE = 512
"""Longest side of a picture on the page, in pixels."""


class BlindCell:
    """A measured checkpoint.

    Attributes:
        corridor: The position of its corridor among those that are shown.
        run: Its run.
        step: Optimizer steps.
        measures: What its verdict is made of.
    """

    def __init__(self, corridor: int, run: RecordedRun, step: int, measures: dict[str, Interval]) -> None:
        self.corridor, self.run, self.step, self.measures = corridor, run, step, measures

    @property
    def key(self) -> tuple[str, int]:
        """Run and step, which name it in its corridor."""
        return self.run.name, self.step


class Exhibit:
    """The measured cells of corridors, corridor by corridor, in random order within each.

    Pictures are encoded anew, so that what their files say of them stays here.

    Args:
        tables: The corridors, each read from its folder.
        seed: Of the order.

    Attributes:
        cells: The cells, in the order in which they are shown.

    Raises:
        UserError: No cell has been measured.
    """

    def __init__(self, tables: Sequence[CorridorTable], seed: int) -> None:
        self.tables = list(tables)
        self.cells: list[BlindCell] = []
        self._files = [picture_files(table) for table in tables]
        self._uri = lru_cache(maxsize=4096)(_uri)
        for index, table in enumerate(tables):
            found = _measured(index, table)
            if not found:
                raise UserError(
                    f"{table.folder} holds no measured cell to be labelled; let its fits run with a CLIP "
                    "(clip_drift.clip) first"
                )
            self.cells += shuffled(found, seed, table.title)

    def corridor(self, index: int) -> dict[str, Any]:
        """The prompts, the base model's pictures and the photos of a corridor, in plain values.

        Pictures are data URIs; None stands for one that is missing.
        """
        table = self.tables[index]
        photos = recipe.photos(table)
        sheet = [photos.sheet] if photos and photos.sheet else []
        return {
            "prompts": list(seeds_by_prompt(table)),
            "base": self._pictures(index, table.runs[0].name, 0),
            "photos": [*photos.squares.values(), *sheet] if photos else [],
        }

    def pictures(self, index: int) -> list[list[str | None]]:
        """A cell's pictures as data URIs, by prompt and seed as the base's of its corridor."""
        cell = self.cells[index]
        return self._pictures(cell.corridor, cell.run.name, cell.step)

    def _pictures(self, corridor: int, run: str, step: int) -> list[list[str | None]]:
        files, prompts = self._files[corridor], seeds_by_prompt(self.tables[corridor])
        return [
            [self._uri(files.get(Place(run, step, prompt, seed))) for seed in seeds]
            for prompt, seeds in prompts.items()
        ]


def _measured(index: int, table: CorridorTable) -> list[BlindCell]:
    found = []
    for (name, step), cell in table.cells.items():
        if cell.zone is None:
            continue
        run = next(run for run in table.runs if run.name == name)
        try:
            found.append(BlindCell(index, run, step, measures_at(run, step)))
        except UserError as error:
            notice(f"{error}; it is not shown")
    return found


def _uri(path: Path | None) -> str | None:
    try:
        return None if path is None else data_uri(decode(path).image, SIDE)
    except UndecodableError:
        return None
