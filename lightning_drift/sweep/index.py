"""The index of a sweep: one row per cell, with every parameter, measure and file, as CSV."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_text
from lightning_drift.sweep.cells import Cell
from lightning_drift.sweep.index_head import is_index
from lightning_drift.sweep.measure import PICTURE_MEASURES

FILES = ("file", "base_file", "map_file")
PARAMETERS = (
    "product",
    "group",
    "prompt",
    "seed",
    "guidance_scale",
    "num_inference_steps",
    "checkpoint",
    "drift",
    "sampling_drift",
)

_FORMULA = re.compile("'*[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")  # the last four are full-width signs

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
        maps: Sequence[str | None] = (),
    ) -> "Index":
        """An index of cells.

        Args:
            cells: The cells.
            files: For each cell its picture's file, relative to the index.
            bases: Likewise its base's; or empty.
            measures: For each cell its measures.
            maps: For each cell the file of its map or None; or empty.
        """
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
                **{name: _plain_drift(getattr(cell, name)) for name in ("drift", "sampling_drift")},
                **measures[number],
                "file": files[number],
            }
            row |= {"base_file": bases[number]} if bases else {}
            rows.append(row | ({"map_file": maps[number]} if maps and maps[number] else {}))
        slots = dict.fromkeys(slot_column(slot) for cell in cells for slot, _ in cell.prompt.slots)
        return cls(rows, list(slots))

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether the head of a file is that of an index."""
        return is_index(path)

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Read the CSV that `save` wrote; parameters and measures are text, as they stand in it.

        Raises:
            UserError: It cannot be read, or is not such a CSV.
        """
        try:
            reader = csv.DictReader(StringIO(read_text(path, "index"), newline=""), strict=True)
            lines, head = list(reader), reader.fieldnames or []
        except csv.Error as error:
            raise UserError(f"the index {path} is damaged: {error}") from error
        known = {*FILES, *PARAMETERS, *PICTURE_MEASURES}
        if not {"file", "prompt"} <= set(head):
            raise UserError(f"the index {path} is damaged: it has no columns file and prompt")
        if any(None in line or None in line.values() for line in lines):
            raise UserError(f"the index {path} is damaged: a line has other columns than its head")
        rows: list[Row] = [
            {
                unquoted(str(name)): unquoted(text)
                for name, text in line.items()
                if text or name not in (*PICTURE_MEASURES, "base_file", "map_file")
            }
            for line in lines
        ]
        slots = [name for name in head if name not in known]
        return cls(rows, [unquoted(name) for name in slots])

    @property
    def files(self) -> list[str]:
        """All files that it names, each once."""
        return list(dict.fromkeys(row[name] for row in self.rows for name in FILES if row.get(name)))

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

    def by(self, *columns: str) -> "dict[tuple[Any, ...], Index]":
        """The rows with each combination of some columns' values, in the order of the rows.

        Args:
            columns: The columns; a row without one of them has None there.
        """
        parts: dict[tuple[Any, ...], Index] = {}
        for row in self.rows:
            values = tuple(row.get(name) for name in columns)
            if values not in parts:
                parts[values] = Index([], self.slots)
            parts[values].rows.append(row)
        return parts

    def save(self, path: Path) -> None:
        """Write the CSV, complete or not at all.

        Spreadsheets take a text that begins like a formula for one, and run it: such a text is written with
        an apostrophe ahead (`quoted`), which `load` takes away.

        Raises:
            OSError: It cannot be written.
        """
        text = StringIO(newline="")
        files = [name for name in FILES if name != "map_file" or any(name in row for row in self.rows)]
        columns = [*files, *self.parameters, *self.measures]
        head = [quoted(name) for name in columns]
        for line in (head, *([_plain(row.get(name, "")) for name in columns] for row in self.rows)):
            text.write(_line(line))
        with atomic_write(path) as file:
            file.write(text.getvalue().encode("utf-8", "backslashreplace"))


def _plain_drift(value: object) -> float | str:
    return value if isinstance(value, float) else str(value)


def slot_column(slot: str) -> str:
    """The column of a slot: its own name, unless another column has that."""
    return f"{slot}_slot" if slot in (*FILES, *PARAMETERS, *PICTURE_MEASURES) else slot


def number(value: Any) -> str:
    """A value as people write it: 3 for 3.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def quoted(text: str) -> str:
    """A text that no spreadsheet runs: one that begins like a formula has an apostrophe ahead of it.

    >>> quoted("=1+1"), quoted("a tree"), quoted("'=")
    ("'=1+1", 'a tree', "''=")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unquoted(text: str) -> str:
    """Undo `quoted`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _line(values: Sequence[str]) -> str:
    """A line of the CSV. The writer puts those texts in quotes that hold a part of its line end."""
    line = StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _plain(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else number(value)
