"""Number lists as people write them on a command line: ``800,1200,1600``, ``0-31``, ``0.25,0.5,1``."""

import math
import re
from collections.abc import Iterable

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import MAX_SEED, shown

MAX_COUNT = 100_000


def integers(
    value: str | int | Iterable[int], option: str, low: int = 0, high: int = MAX_SEED, empty: bool = False
) -> list[int]:
    """Read a list of non-negative integers.

    Args:
        value: One integer, a sequence of them, or text: integers and inclusive ranges ``a-b``, separated by
            commas.
        option: The option's name, for the error message.
        low: The least that is allowed, 0 or more.
        high: The most that is allowed; by default the largest seed, 2**63 - 1.
        empty: Whether the list may be empty (``[]``, or a text of spaces).

    Returns:
        The integers in the order given, without repetitions.

    Raises:
        UserError: If the value is not such a list, is empty, runs backwards, holds more than 100,000 numbers
            or one that is out of bounds.

    >>> integers("0-3,7", "seeds")
    [0, 1, 2, 3, 7]
    """
    unlike = f"{shown(value)} is not a list of whole numbers; write for example 0-7 or 1,5,9"
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | Iterable)
        or isinstance(value, dict | bytes)
    ):
        raise UserError(unlike, option)
    if isinstance(value, int):
        value = [value]
    if isinstance(value, str):
        items: list[object] = [] if empty and not value.strip() else [*value.split(",")]
    else:
        items = [*value]
    if not items and not empty:
        raise UserError("the list of numbers is empty; write for example 0-7 or 1,5,9", option)
    ranges: list[tuple[int, int]] = []
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise UserError(unlike, option)
        if isinstance(item, int):
            first = last = item
        else:
            match = re.fullmatch(r"\s*([0-9]{1,40})\s*(?:-\s*([0-9]{1,40})\s*)?", item)
            if match is None:
                raise UserError(
                    f"{shown(item.strip())} is not a whole number or a range; write for example 0-7 or 1,5,9",
                    option,
                )
            first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"the range {first}-{last} runs backwards; write {last}-{first}", option)
        if first < low or last > high:
            raise UserError(
                f"{shown(last if last > high else first)} is out of range; give {low} to {high}", option
            )
        ranges.append((first, last))
    if sum(last - first + 1 for first, last in ranges) > MAX_COUNT:
        raise UserError(f"the list holds more than {MAX_COUNT:,} numbers", option)
    return list(dict.fromkeys(number for first, last in ranges for number in range(first, last + 1)))


def decimals(value: str | float | Iterable[float], option: str) -> list[float]:
    """Read a list of numbers, such as ``0.25,0.5,1``.

    Args:
        value: One number, a sequence of them, or text: numbers separated by commas.
        option: The option's name, for the error message.

    Returns:
        The numbers in the order given, without repetitions; all are finite.

    Raises:
        UserError: If the value is not such a list, is empty, or holds more than 100,000 numbers.

    >>> decimals("0.5, 1", "values")
    [0.5, 1.0]
    """
    unlike = f"{shown(value)} is not a list of numbers; write for example 0.25,0.5,1"
    if isinstance(value, dict | bytes):
        raise UserError(unlike, option)
    items: list[object] = (
        list(value.split(","))
        if isinstance(value, str)
        else list(value)
        if isinstance(value, Iterable)
        else [value]
    )
    if any(isinstance(item, bool) for item in items):
        raise UserError(unlike, option)
    try:
        numbers = [float(item) for item in items]  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise UserError(unlike, option) from None
    if not numbers:
        raise UserError("the list of numbers is empty; write for example 0.25,0.5,1", option)
    if len(numbers) > MAX_COUNT:
        raise UserError(f"the list holds more than {MAX_COUNT:,} numbers", option)
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{shown(value)} holds a number that is infinite or none", option)
    return list(dict.fromkeys(numbers))
