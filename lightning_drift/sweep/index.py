"""The index of a sweep: one row per cell, with every parameter, measure and file, as CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from lightning_drift.common.atomic import atomic_write
from lightning_drift.sweep.cells import Cell
from lightning_drift.sweep.measure import PICTURE_MEASURES

FILES = ("file", "base_file")
PARAMETERS = (
    "product",
    "group",
    "prompt",
    "seed",
    "guidance_scale",
    "num_inference_steps",
    "checkpoint",
    "drift",
)

Row = dict[str, Any]


@dataclass
class Index:
    """The rows of a sweep.

    Attributes:
        rows: For each cell its values by column; a measure that could not be taken is missing.
        slots: Names of the columns that hold the slots' values.
    """

    rows: list[Row]
    slots: list[str]

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell],
        files: Sequence[str],
        bases: Sequence[str],
        measures: Sequence[Mapping[str, float]],
    ) -> "Index":
        """An index of cells, their files (relative to the index), their bases' files, and their measures."""
        rows = []
        for number, cell in enumerate(cells):
            row: Row = {
                "product": cell.product,
                "group": cell.prompt.group,
                "prompt": cell.prompt.text,
                **{slot_column(slot): value for slot, value in cell.prompt.slots},
                "seed": cell.seed,
                "guidance_scale": cell.guidance_scale,
                "num_inference_steps": cell.num_inference_steps,
                "checkpoint": cell.checkpoint,
                "drift": cell.drift,
                **measures[number],
                "file": files[number],
            }
            rows.append(row | ({"base_file": bases[number]} if bases else {}))
        slots = dict.fromkeys(slot_column(slot) for cell in cells for slot, _ in cell.prompt.slots)
        return cls(rows, list(slots))

    @property
    def parameters(self) -> list[str]:
        """Columns that hold parameters, in order."""
        place = PARAMETERS.index("prompt") + 1
        return [*PARAMETERS[:place], *self.slots, *PARAMETERS[place:]]

    @property
    def measures(self) -> list[str]:
        """Measures that at least one row has, in order."""
        return [name for name in PICTURE_MEASURES if any(name in row for row in self.rows)]

    def values(self, column: str) -> list[Any]:
        """The different values of a column, in the order of the rows."""
        return list(dict.fromkeys(row[column] for row in self.rows if column in row))

    @property
    def varied(self) -> list[str]:
        """Parameters with more than one value."""
        return [name for name in self.parameters if len(self.values(name)) > 1]

    def only(self, **values: Any) -> "Index":
        """The rows with these values."""
        rows = [row for row in self.rows if all(row.get(name) == value for name, value in values.items())]
        return Index(rows, self.slots)

    def save(self, path: Path) -> None:
        """Write the CSV, complete or not at all.

        Raises:
            OSError: It cannot be written.
        """
        text = StringIO()
        columns = [*FILES, *self.parameters, *self.measures]
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_plain(self.rows))
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())


def slot_column(slot: str) -> str:
    """The column of a slot: its own name, unless another column has that."""
    return f"{slot}_slot" if slot in (*FILES, *PARAMETERS, *PICTURE_MEASURES) else slot


def number(value: Any) -> str:
    """A value as people write it: 3 for 3.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(rows: Iterable[Row]) -> Iterable[Row]:
    for row in rows:
        yield {name: number(value) for name, value in row.items()}
