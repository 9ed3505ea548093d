"""Which learning rate to fit next, so that one of few fits dreams as far along the corridor as can be."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lightning_drift.drift.verdict import ZONES
from lightning_drift.fit.runs import rate_name

_DREAMING = ZONES.index("dreaming")


class MilestoneVerdict(NamedTuple):
    """A verdict as the search needs it.

    Attributes:
        zone: One of ``ZONES``.
        borderline: The zone that it may be in instead; None where it is clear.
        position: 0 to 100 along the corridor; None for a broken model.
    """

    zone: str
    borderline: str | None = None
    position: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the model clearly dreams."""
        return self.zone == "dreaming" and self.borderline is None

    @property
    def beyond(self) -> bool:
        """Whether the model is, or may be, farther along than dreaming."""
        return max(ZONES.index(zone) for zone in (self.zone, self.borderline) if zone) > _DREAMING

    @property
    def hopeless(self) -> bool:
        """Whether nothing that comes later in the same fit can dream."""
        return self.zone in ("cooked", "broken")


@dataclass
class Known:
    """What is known of a fit.

    Attributes:
        readings: Its verdicts so far, by step.
        runs: Whether it is still running, so that more verdicts will come.
        failed: Whether it ended before its last step without being hopeless.
    """

    readings: dict[int, MilestoneVerdict] = field(default_factory=dict)
    runs: bool = False
    failed: bool = False


def candidates(low: float, high: float) -> list[float]:
    """The learning rates that may be proposed: both ends, and between them those of two digits.

    >>> candidates(9.8e-6, 1.2e-5)
    [9.8e-06, 9.9e-06, 1e-05, 1.1e-05, 1.2e-05]
    """
    found = {rate_name(rate): rate for rate in (low, high)}
    for power in range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1):
        for digits in range(10, 100):
            rate = float(f"{digits}e{power - 1}")
            if low < rate < high:
                found.setdefault(rate_name(rate), rate)
    return sorted(found.values())


# How far along a fit is follows its dose, rate x steps^e, nearly: of 96 cells of the pocket, the rate times
# steps^0.75 tells 90 right. One set of photos differs from another in where dreaming ends, by far more than
# in the exponent.
_EXPONENTS = np.array([0.55, 0.65, 0.75, 0.85, 0.95])
_EXPONENT_ODDS = np.array([0.5, 1.0, 1.5, 1.0, 0.5])
_SLOPES = np.array([8.0, 14.0, 25.0, 45.0, 70.0])
"""Positions by which a model moves on as its dose grows e-fold."""
_BORDER = 47.0
"""The position at which clear dreaming usually ends; 50 is where forgetting begins."""
_BLUR = 0.05
"""How sharp the border is, in the logarithm of the dose: verdicts have luck in them."""
_BORDERS = 240
_ENOUGH = 4
"""As many verdicts of one fit count in full: they share its luck."""
_FAILED = 0.5
"""How much likelier a fit is to fail beyond the border than before it; it may have failed of anything."""
_LEAST_GAIN = 0.004


class RateSearch:
    """Proposes learning rates in a range.

    It keeps the chances of where clear dreaming ends (the border, as a dose: the logarithm of rate x steps^e,
    over exponents e) given all verdicts so far: each says on which side of the border it is, and by its
    position how far from it, more or less. The proposal is the rate whose fit leaves least distance, on
    average over these chances, between the border and the farthest checkpoint before it. Checkpoints that
    other fits under way will have count as if they were there. The first rate is the middle of the range. No
    random number is used: the same verdicts give the same rate.

    Args:
        low: The lowest rate.
        high: The highest rate.
        steps: The milestones, ascending.
    """

    def __init__(self, low: float, high: float, steps: Sequence[int]) -> None:
        self.rates = candidates(low, high)
        self._steps = np.log(np.array(steps, dtype=float))
        ends = [np.log(rate) + e * self._steps[at] for e in _EXPONENTS for rate, at in ((low, 0), (high, -1))]
        span = max(ends) - min(ends)
        self._borders = np.linspace(min(ends) - 0.1 * span, max(ends), _BORDERS)

    def propose(self, fits: Mapping[float, Known], together: int = 1) -> float | None:
        """The rate to fit next.

        Args:
            fits: What is known of each fit, by rate; rates outside the range tell as much as others.
            together: How many fits run side by side; the first ones divide the range evenly.

        Returns:
            None if every rate was fitted, or if no further fit promises to come farther than those there are.
        """
        names = {rate_name(rate) for rate in fits}
        left = [rate for rate in self.rates if rate_name(rate) not in names]
        if not left:
            return None
        if len(fits) < together and all(fit.runs and not fit.readings for fit in fits.values()):
            share = (len(fits) + 1) / (together + 1)
            place = (1 - share) * math.log(self.rates[0]) + share * math.log(self.rates[-1])
            return min(left, key=lambda rate: abs(math.log(rate) - place))
        chances = self._chances(fits)
        nearest = self._nearest(self._there(fits))
        gains = []
        for rate in left:
            # Of the checkpoints of this fit, the one nearest before each border that may be.
            reach = self._nearest({e: np.log(rate) + exponent * self._steps for e, exponent in _indexed()})
            gains.append(float((chances * np.maximum(0.0, nearest - reach)).sum()))
        best = max(gains)
        if best < _LEAST_GAIN:
            return None
        # Of rates that promise alike, the one in their middle.
        alike = [rate for rate, gain in zip(left, gains, strict=True) if gain >= best * (1 - 1e-9)]
        return alike[len(alike) // 2]

    def _chances(self, fits: Mapping[float, Known]) -> "np.ndarray[Any, Any]":
        """How likely each exponent (row) and border (column) is; their sum is 1."""
        shape = len(_EXPONENTS), len(_SLOPES), _BORDERS
        logs = np.zeros(shape) + np.log(_EXPONENT_ODDS)[:, None, None]
        for rate, fit in fits.items():
            weight = min(1.0, _ENOUGH / max(1, len(fit.readings)))
            for step, reading in fit.readings.items():
                logs += weight * self._likelihood(rate, step, reading)
            if fit.failed:
                after = max(fit.readings, default=0)
                missing = next((each for each in np.exp(self._steps) if each > after + 0.5), None)
                if missing is not None:
                    logs += _FAILED * self._side(rate, float(missing), beyond=True)[:, None, :]
        chances = np.exp(logs - logs.max()).sum(axis=1)
        return np.asarray(chances / chances.sum())

    def _likelihood(self, rate: float, step: int, reading: MilestoneVerdict) -> "np.ndarray[Any, Any]":
        """The logarithm of how likely a reading is, by exponent, slope and border."""
        logs = self._side(rate, step, reading.beyond)[:, None, :]
        if reading.position is None:
            return logs
        expected = np.clip(_BORDER + _SLOPES[None, :, None] * self._ahead(rate, step)[:, None, :], 0.0, 100.0)
        # Far from the border it is no straight line.
        width = 4.0 + 0.3 * abs(reading.position - _BORDER)
        logs = logs - 0.5 * ((reading.position - expected) / width) ** 2
        return np.asarray(logs)

    def _ahead(self, rate: float, step: float) -> "np.ndarray[Any, Any]":
        """How far a cell is beyond each border, by exponent and border."""
        doses = math.log(rate) + _EXPONENTS * math.log(step)
        return np.asarray(doses[:, None] - self._borders[None, :])

    def _side(self, rate: float, step: float, beyond: bool) -> "np.ndarray[Any, Any]":
        ahead = self._ahead(rate, step) / _BLUR
        return np.asarray(-np.logaddexp(0.0, -ahead if beyond else ahead))

    def _there(self, fits: Mapping[float, Known]) -> dict[int, "np.ndarray[Any, Any]"]:
        """The doses of the checkpoints that are before the border, and of those that are still to come."""
        cells: list[tuple[float, float]] = []
        for rate, fit in fits.items():
            cells += [(rate, step) for step, reading in fit.readings.items() if not reading.beyond]
            if fit.runs:
                cells += [(rate, step) for step in np.exp(self._steps) if round(step) not in fit.readings]
        return {
            e: np.array([math.log(rate) + exponent * math.log(step) for rate, step in cells])
            for e, exponent in _indexed()
        }

    def _nearest(self, doses: Mapping[int, "np.ndarray[Any, Any]"]) -> "np.ndarray[Any, Any]":
        """How far each border is from the nearest of some doses before it; by exponent and border."""
        rows = []
        bottom = self._borders[0] - 0.5
        for e in range(len(_EXPONENTS)):
            sorted_doses = np.concatenate([[bottom], np.sort(doses[e])])
            below = np.searchsorted(sorted_doses, self._borders, side="right") - 1
            rows.append(self._borders - sorted_doses[np.maximum(below, 0)])
        return np.array(rows)


def _indexed() -> Iterable[tuple[int, float]]:
    return enumerate(_EXPONENTS.tolist())
