"""Labelled XY contact sheets: two parameters along the sides, one sheet per combination of the others."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.prompt_lists import slug
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.stable_diffusion.drift_dial import dial_title, read_drift
from lightning_drift.stable_diffusion.sampling_drift import read_sampling_drift, sampling_title
from lightning_drift.sweep.index import Index, Row, number

SIDE = 8192
"""Pixels; larger pictures shrink to keep a sheet below it."""
MOST_VALUES = 100
"""Values along a side at most; more go on on further sheets."""
NAME_BYTES = 150
"""Longest name of a sheet, without its ending; file systems take 255 bytes."""
_USUAL = (
    "num_inference_steps",
    "guidance_scale",
    "drift",
    "sampling_drift",
    "checkpoint",
    "seed",
    "prompt",
)


def check_axes(axes: tuple[str | None, str | None], parameters: list[str]) -> None:
    """Refuse axes that are no parameters of the sweep.

    Raises:
        UserError: A name is no parameter, or both are one.
    """
    for option, name in zip(("sheet_columns", "sheet_rows"), axes, strict=True):
        if name is not None and name not in parameters:
            raise UserError(f"{name} is no parameter; give one of {', '.join(parameters)}", f"data.{option}")
    if axes[0] is not None and axes[0] == axes[1]:
        raise UserError("the same as data.sheet_columns; give two different parameters", "data.sheet_rows")


def choose_axes(part: Index, axes: tuple[str | None, str | None]) -> tuple[str, str] | None:
    """Columns and rows of a product's sheets: the given ones, else the first parameters that vary.

    Returns:
        Two parameters; None where a sheet would hold one picture only.
    """
    varied = [name for name in _USUAL if 1 < len(part.values(name)) <= MOST_VALUES]
    free = [name for name in varied if name not in axes]
    columns, rows = axes
    columns = columns or (free.pop(0) if free else None)
    rows = rows or (free.pop(0) if free else None)
    if columns is None and rows is None:
        return None
    spare = [name for name in ("seed", "prompt") if name not in (columns, rows)]
    return columns or spare[0], rows or spare[-1]


def sheets(
    index: Index, folder: Path, axes: tuple[str | None, str | None], most: int
) -> Iterator[tuple[str, Image.Image]]:
    """The contact sheets of an index, each with a file name without its ending.

    Args:
        index: The index.
        folder: Where the files that it names lie.
        axes: Parameters along the columns and the rows; None to choose.
        most: Sheets to make at most; a notice says how many that leaves out.
    """
    plans: list[_Plan] = []
    for part in index.by("product").values():
        sides = choose_axes(part, axes)
        if sides is None:
            continue
        others = [name for name in part.varied if name not in sides and name not in ("product", "group")]
        # Slots and their prompt say the same: sheets go by slots if one is an axis, else by prompts.
        same = ["prompt"] if set(sides) & set(index.slots) else index.slots
        others = [name for name in others if name not in same]
        for values, combined in part.by(*others).items():
            rest = dict(zip(others, values, strict=True))
            pieces = _pieces(combined, *sides)
            for place, piece in enumerate(pieces, 1):
                plans.append(_Plan(*sides, rest, piece, (place, len(pieces))))
    if len(plans) > most > 0:
        notice(f"{most} of {len(plans)} contact sheets are written; data.sheets sets how many")
    for name, plan in zip(_file_names(plans), plans[:most], strict=False):
        heads = [_heading(key, value) for key, value in plan.rest.items()]
        heads += [f"sheet {plan.piece[0]} of {plan.piece[1]}"] if plan.piece[1] > 1 else []
        title = ", ".join(heads)
        yield name, _sheet(plan.part, folder, plan.columns, plan.rows, title)


class _Plan(NamedTuple):
    """A sheet: the parameters along its sides, the others' values, the index's rows, which of how many."""

    columns: str
    rows: str
    rest: dict[str, Any]
    part: Index
    piece: tuple[int, int]


def _file_names(plans: list[_Plan]) -> list[str]:
    """A file name for each sheet; those that are too long or alike end in a digest of what they are of."""
    names = []
    for plan in plans:
        name = f"{slug(str(plan.part.rows[0]['product']))}_{plan.rows}-by-{plan.columns}"
        name += "".join(f"_{slug(number(value))}" for value in plan.rest.values())
        names.append(name + (f"_{plan.piece[0]:04d}" if plan.piece[1] > 1 else ""))
    counts = Counter(names)
    for index, (name, plan) in enumerate(zip(names, plans, strict=True)):
        if counts[name] > 1 or len(name.encode()) > NAME_BYTES:
            known = (plan.part.rows[0]["product"], plan.rows, plan.columns, plan.rest)
            what = repr((*known, plan.piece[0]) if plan.piece[1] > 1 else known)
            start = name.encode()[: NAME_BYTES - 9].decode(errors="ignore")
            names[index] = f"{start}_{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    return names


def _pieces(part: Index, *sides: str) -> list[Index]:
    """The rows of a sheet, or those of several where there are more values than one side holds."""
    pieces = [part]
    for name in sides:
        values = _ordered(part.values(name))
        if len(values) > MOST_VALUES:
            number = {value: place // MOST_VALUES for place, value in enumerate(values)}
            split: list[Index] = []
            for piece in pieces:
                found: dict[int, Index] = {}
                for row in piece.rows:
                    found.setdefault(number[row[name]], Index([], part.slots)).rows.append(row)
                split += (found[key] for key in sorted(found))
            pieces = split
    return pieces


def _sheet(part: Index, folder: Path, columns: str, rows: str, title: str) -> Image.Image:
    across, down = (_ordered(part.values(name)) for name in (columns, rows))
    limit = max(32, SIDE // max(len(across), len(down)))
    cells: dict[tuple[Any, Any], Row] = {(row[rows], row[columns]): row for row in reversed(part.rows)}
    images = []
    for key in ((row, column) for row in down for column in across):
        image = Image.new("RGB", (8, 8))  # a cell that is not there
        if key in cells:
            with suppress(UndecodableError):  # damaged since it was made: its cell stays black
                image = decode(folder / cells[key]["file"]).image
            image.thumbnail((limit, limit))
        images.append(image)
    return contact_sheet(
        images,
        rows=[_heading(rows, value) for value in down],
        columns=[_heading(columns, value) for value in across],
        title=title or None,
        side=SIDE,
    )


def _ordered(values: list[Any]) -> list[Any]:
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values


def _heading(name: str, value: Any) -> str:
    """A parameter and its value; a drift of each part speaks for itself."""
    if name == "drift" and isinstance(value, str):
        return dial_title(read_drift(value, name))
    if name == "sampling_drift":
        return f"sampling {sampling_title(read_sampling_drift(value, name))}"
    return f"{_label(name)} {_text(value)}"


def _label(name: str) -> str:
    """A parameter's name for people; none for a prompt, which speaks for itself."""
    return {"prompt": "", "num_inference_steps": "steps", "guidance_scale": "guidance"}.get(name, name)


def _text(value: Any) -> str:
    return (number(value) if value is not None else "") or "(empty)"
