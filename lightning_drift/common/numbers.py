"""Single numbers of a user, with the bounds they must keep."""

import math

from lightning_drift.common.errors import UserError

MOST_TOGETHER = 1024
"""The largest batch: pictures or photos that go through a model together."""

MAX_SEED = 2**63 - 1
"""The largest seed; seeds of other programs reach 2**64, which PyTorch's generators do not tell apart."""

MAX_SEED_EVERYTHING = 2**32 - 1
"""The largest seed of a run: NumPy's generator, which Lightning seeds too, takes no larger one."""


def whole(value: object, option: str, low: int | None = None, high: int | None = None) -> int:
    """A whole number within bounds.

    Args:
        value: What was given.
        option: The option's name, for the error message.
        low: The least that is allowed; None for no bound.
        high: The most that is allowed; None for no bound.

    Raises:
        UserError: It is no whole number (true and false are none), or out of bounds.

    >>> whole(8, "model.batch_size", 1, 64)
    8
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{shown(value)} is not a whole number; give {_bounds(low, high)}", option)
    if (low is not None and value < low) or (high is not None and value > high):
        raise UserError(f"{shown(value)} is out of range; give {_bounds(low, high)}", option)
    return value


def real(
    value: object,
    option: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> float:
    """A finite number within bounds.

    Args:
        value: What was given.
        option: The option's name, for the error message.
        low: The least that is allowed; None for no bound.
        high: The most that is allowed; None for no bound.
        above: What it must be greater than; None for no such bound.

    Raises:
        UserError: It is no number (true and false are none), infinite, not a number, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{shown(value)} is not a number; give {_bounds(low, high, above)}", option)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    outside = (low is not None and number < low) or (high is not None and number > high)
    if not math.isfinite(number) or outside or (above is not None and number <= above):
        raise UserError(f"{shown(value)} is out of range; give {_bounds(low, high, above)}", option)
    return number


def shown(value: object) -> str:
    """A value as a message shows it: at most 60 characters of it.

    >>> shown("x" * 100)[-12:]
    "xxx… (a str)"
    """
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.0f}"  # 2 as it was written, not 2.0
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}… (a {type(value).__name__})"


def _bounds(low: float | None, high: float | None, above: float | None = None) -> str:
    if above is not None:
        return f"one above {above:g}" + ("" if high is None else f" and up to {high:g}")
    if low is None and high is None:
        return "a finite one"
    if high is None:
        return f"{low:g} or more"
    if low is None:
        return f"{high:g} or less"
    return f"one from {low:g} to {high if isinstance(high, int) else format(high, 'g')}"
