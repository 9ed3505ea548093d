"""Number lists as people write them on a command line: ``800,1200,1600``, ``0-31``, ``0.25,0.5,1``."""

import re
from collections.abc import Iterable

from lightning_drift.common.errors import UserError

MAX_RANGE = 100_000


def integers(value: str | int | Iterable[int], option: str) -> list[int]:
    """Read a list of non-negative integers.

    Args:
        value: One integer, a sequence of them, or text: integers and inclusive ranges ``a-b``, separated by
            commas.
        option: The option's name, for the error message.

    Returns:
        The integers in the order given, without repetitions.

    Raises:
        UserError: If the text is not such a list, a range runs backwards or holds more than 100,000 numbers.

    >>> integers("0-3,7", "seeds")
    [0, 1, 2, 3, 7]
    """
    if isinstance(value, bool) or (not isinstance(value, str | int) and not isinstance(value, Iterable)):
        raise UserError(f"{value!r} is not a list of whole numbers; write for example 0-7 or 1,5,9", option)
    items = str(value).split(",") if isinstance(value, str | int) else [str(item) for item in value]
    numbers: list[int] = []
    for item in items:
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", item)
        if match is None:
            raise UserError(
                f"{item.strip()!r} is not a whole number or a range; write for example 0-7 or 1,5,9", option
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"the range {item.strip()} runs backwards; write {last}-{first}", option)
        if last - first >= MAX_RANGE:
            raise UserError(f"the range {item.strip()} holds more than {MAX_RANGE:,} numbers", option)
        numbers.extend(range(first, last + 1))
    return list(dict.fromkeys(numbers))


def decimals(value: str | float | Iterable[float], option: str) -> list[float]:
    """Read a list of numbers, such as ``0.25,0.5,1``.

    Args:
        value: One number, a sequence of them, or text: numbers separated by commas.
        option: The option's name, for the error message.

    Returns:
        The numbers in the order given, without repetitions.

    Raises:
        UserError: If the text is not such a list.

    >>> decimals("0.5, 1", "values")
    [0.5, 1.0]
    """
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, Iterable) else [value]
    try:
        numbers = [float(item) for item in items]
    except (TypeError, ValueError):
        raise UserError(f"{value!r} is not a list of numbers; write for example 0.25,0.5,1", option) from None
    return list(dict.fromkeys(numbers))
