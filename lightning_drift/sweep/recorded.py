"""A finished sweep as its files tell it: its index with numbers, and what its commands must say."""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_text
from lightning_drift.dreams.dreamer import DTYPES
from lightning_drift.sweep.index import PARAMETERS, Index, Row, number
from lightning_drift.sweep.measure import PICTURE_MEASURES

MOST_VALUES = 2_000_000
"""Values that an index holds at most: whoever asks for its page has all of them in memory."""

_DATA = re.compile(r'<script type="application/json" id="index">(.*?)</script>', re.DOTALL)


def read_index(path: Path) -> Index:
    """Read an index whose numbers are numbers, as `Index.of` makes it.

    Raises:
        UserError: It cannot be read, is damaged, has no rows, or holds too many values.
    """
    index = Index.load(path)
    if not index.rows:
        raise UserError(f"the index {path} names no picture")
    if len(index.rows) * len(index.rows[0]) > MOST_VALUES:
        raise UserError(f"the index {path} holds more than {MOST_VALUES:,} values")
    for place, row in enumerate(index.rows):
        for name in row.keys() & _KINDS.keys():
            try:
                row[name] = _KINDS[name](row[name])
            except ValueError as error:
                raise UserError(f"the index {path} is damaged: row {place + 1}, {name}: {error}") from error
    return index


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _drift(text: str) -> float | str:
    """A drift is a number, or the text of one that differs between parts or steps."""
    try:
        return _finite(text)
    except ValueError:
        return text


_KINDS: dict[str, Callable[[str], Any]] = {
    "seed": int,
    "guidance_scale": _finite,
    "num_inference_steps": int,
    "drift": _drift,
    "sampling_drift": _drift,
    **dict.fromkeys(PICTURE_MEASURES, _finite),
}


def read_facts(page: Path, index: Index) -> dict[str, Any] | None:
    """What commands for an index's pictures must say beside their rows, as the sweep's own page holds it.

    Only the page's data is read, as JSON. It must tell of the same files with the same parameters; these are
    put into the index, which has them rounded to six digits.

    Args:
        page: The page that the sweep wrote.
        index: The index beside it.

    Returns:
        The options by name; None where they are not known for certain.
    """
    try:
        match = _DATA.search(read_text(page, "page"))
        if match is None:
            return None
        data = json.loads(match[1], parse_constant=_refuse)
        facts, exact = data["facts"], _exact(data, index.rows)
        known = facts.keys() == _FACTS.keys() and all(_FACTS[name](facts[name]) for name in _FACTS)
    except (UserError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None  # another program's, damaged, or of another version
    if not known or exact is None:
        return None
    for row, parameters in zip(index.rows, exact, strict=True):
        row |= parameters
    return dict(facts)


def _exact(data: dict[str, Any], rows: Sequence[Row]) -> list[Row] | None:
    """Each row's parameters as the page has them; None if they are not those of the rows."""
    if data["names"] != [row["file"] for row in rows]:
        return None
    columns = {each["name"]: each for each in data["parameters"]}
    exact: list[Row] = []
    for place, row in enumerate(rows):
        own = {name: _value(columns[name], place) for name in PARAMETERS}
        if any(
            type(own[name]) is not type(row[name]) or number(own[name]) != number(row[name]) for name in own
        ):
            return None
        exact.append(own)
    return exact


def _value(column: dict[str, Any], place: int) -> Any:
    position = column["rows"][place]
    if not isinstance(position, int) or position < 0:
        raise ValueError("it has no value there")
    return column["values"][position]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_size(value: object) -> bool:
    return value is None or (type(value) is int and value > 0)


_FACTS: dict[str, Callable[[Any], bool]] = {
    "negative_prompt": lambda value: isinstance(value, str),
    "height": _is_size,
    "width": _is_size,
    "generator_device": lambda value: value in ("cpu", "cuda"),
    "dtype": lambda value: value == "auto" or value in DTYPES,
    "base": lambda value: value is None or isinstance(value, str),
}
