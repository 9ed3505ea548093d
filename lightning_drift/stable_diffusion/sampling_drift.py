"""How far a fine-tune's prediction counts beside its base's, step by step: a in e0 + a (e - e0)."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import real, shown

MOST = 3.0
"""The largest sampling drift."""

EXAMPLES = "0.7, 0/1@0.4 (0, and 1 from 40 % of the steps on) or 0..1 (from 0 to 1, step by step)"
"""What may be given, for messages."""


class DriftSchedule(NamedTuple):
    """A sampling drift that changes over the steps. Its text is what `read_sampling_drift` takes.

    Attributes:
        values: One after the other; a ramp has two.
        starts: For each value after the first the part of the steps, 0 to 1, from which it holds; of a ramp
            none.

    >>> str(DriftSchedule((0.0, 1.0), (0.4,))), str(DriftSchedule((0.0, 1.0), ()))
    ('0/1@0.4', '0..1')
    """

    values: tuple[float, ...]
    starts: tuple[float, ...]

    def __str__(self) -> str:
        return format(self, "g")

    def __format__(self, spec: str) -> str:
        first, *rest = [format(value, spec) for value in self.values]
        if not self.starts:
            return f"{first}..{rest[0]}"
        return "/".join(
            [first, *(f"{value}@{start:g}" for value, start in zip(rest, self.starts, strict=True))]
        )


SamplingDrift = float | DriftSchedule
"""One number for all steps, or a schedule."""


def over_steps(drift: SamplingDrift, steps: int) -> list[float]:
    """The drift of each of so many sampling steps; the first one sees noise alone.

    >>> over_steps(DriftSchedule((0.0, 1.0), (0.5,)), 4), over_steps(DriftSchedule((0.0, 1.0), ()), 3)
    ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 1.0])
    """
    if not isinstance(drift, DriftSchedule):
        return [drift] * steps
    if not drift.starts:
        first, last = drift.values
        return [first + (last - first) * step / max(1, steps - 1) for step in range(steps)]
    return [drift.values[sum(start <= step / steps for start in drift.starts)] for step in range(steps)]


def sampling_title(drift: SamplingDrift) -> str:
    """A sampling drift in words: ``0.7``, ``0, 1 from 40 %``, ``0 to 1``."""
    if not isinstance(drift, DriftSchedule):
        return f"{drift:g}"
    first, *rest = drift.values
    if not drift.starts:
        return f"{first:g} to {rest[0]:g}"
    later = [f"{value:g} from {100 * start:g} %" for value, start in zip(rest, drift.starts, strict=True)]
    return ", ".join([f"{first:g}", *later])


def read_sampling_drift(value: object, option: str) -> SamplingDrift:
    """A value that a user gives.

    Args:
        value: A number in 0 to 3, or text: one; values with the part of the steps from which each holds, as
            in ``0/1@0.4``; or two between which it goes in equal steps, as in ``0..1``.
        option: The option that holds it, for the message.

    Raises:
        UserError: It is none of these, or a number is out of range.

    >>> read_sampling_drift("1/0.5@0.25/0@0.75", "model.sampling_drift")
    DriftSchedule(values=(1.0, 0.5, 0.0), starts=(0.25, 0.75))
    """
    if isinstance(value, DriftSchedule):
        value = str(value)
    if not isinstance(value, str):
        return _checked(value, option)
    text = value.strip()
    if ".." in text:
        ends = [_checked(_number(each, text, option), option) for each in text.split("..", 1)]
        return ends[0] if ends[0] == ends[1] else DriftSchedule((ends[0], ends[1]), ())
    first, *rest = text.split("/")
    values, starts = [_checked(_number(first, text, option), option)], list[float]()
    for piece in rest:
        number, at, start = piece.partition("@")
        begins = _number(start, text, option) if at else 0.0
        if not (starts[-1] if starts else 0) < begins < 1:
            raise UserError(
                f"in {shown(text)} each value after the first needs the part of the steps from which it "
                "holds, between 0 and 1 and ascending, as in 0/1@0.4",
                option,
            )
        values.append(_checked(_number(number, text, option), option))
        starts.append(begins)
    return DriftSchedule(tuple(values), tuple(starts)) if len(set(values)) > 1 else values[0]


def read_sampling_drifts(values: str | float | Iterable[float | str], option: str) -> list[SamplingDrift]:
    """A list of values, without repetitions; text holds one or more, separated by commas.

    Raises:
        UserError: As `read_sampling_drift`, or the list is empty.
    """
    items = [values] if isinstance(values, str) or not isinstance(values, Iterable) else [*values]
    pieces: list[object] = []
    for item in items:
        pieces += [each for each in item.split(",") if each.strip()] if isinstance(item, str) else [item]
    if not pieces:
        raise UserError(f"the list is empty; give values such as {EXAMPLES}", option)
    return list(dict.fromkeys(read_sampling_drift(piece, option) for piece in pieces))


def _number(text: str, whole: str, option: str) -> float:
    if not re.fullmatch(r"[-+.\w]+", text.strip()):
        raise UserError(f"{shown(whole)} is no sampling drift; give {EXAMPLES}", option)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{shown(whole)} is no sampling drift; give {EXAMPLES}", option) from None


def _checked(value: object, option: str) -> float:
    number = real(value, option)
    if not 0 <= number <= MOST:
        raise UserError(
            f"{number:g} is out of range; give 0 (the base's prediction) to {MOST:g}, 1 is the model's own",
            option,
        )
    return number
