"""Thresholds that agree with what a person said of checkpoints, and how far that can be relied on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from lightning_drift.drift.verdict import ZONES, Thresholds, zone_of

ENOUGH = 20
"""Labels below which the agreement says little: of 20 at 80 %, one standard error is 9 %."""

_MORE = 0.95
"""How far beyond the outermost label a threshold is moved that has labels on one side only."""


@dataclass(frozen=True)
class Labelled:
    """A checkpoint that a person has looked at.

    Attributes:
        measures: Its measures by name, those that decide at least.
        zone: The zone that was said.
    """

    measures: Mapping[str, float]
    zone: str


@dataclass(frozen=True)
class Calibration:
    """What labels say of the thresholds.

    Attributes:
        thresholds: Those that agree best.
        moved: Names of those that differ from where the search began.
        labels: How many labels there were.
        before: How many have the zone by the thresholds that the search began with.
        after: How many have it by those found.
        left_out: How many have it by thresholds found without the label itself.
        missing: Zones of the corridor that nothing was labelled as.
    """

    thresholds: Thresholds
    moved: tuple[str, ...]
    labels: int
    before: int
    after: int
    left_out: int
    missing: tuple[str, ...]

    def named(self, source: str) -> Calibration:
        """The same, with thresholds that say where they come from."""
        return replace(self, thresholds=replace(self.thresholds, source=source))

    def warnings(self) -> list[str]:
        """Why the thresholds should be used with care, in sentences without a full stop."""
        found = []
        if self.labels < ENOUGH:
            found.append(
                f"{self.labels} label{'s are' if self.labels != 1 else ' is'} too few to rely on; from about "
                f"{ENOUGH} on, of several photo sets, the agreement says something"
            )
        if self.missing:
            zones = " or ".join(self.missing)
            borders = "its borders" if len(self.missing) == 1 else "their borders"
            found.append(f"nothing was labelled {zones}, so {borders} were not tested")
        if self.left_out < self.before or (self.moved and self.left_out == self.before):
            found.append(
                "judged by thresholds that were found without it, a label is met no more often "
                f"({self.left_out} of {self.labels}) than by the former thresholds ({self.before}), so what "
                "was found may fit these pictures alone"
            )
        return found


@dataclass(frozen=True)
class _Border:
    """Two neighbouring parts of the corridor, and the thresholds between them.

    Attributes:
        first: The zones before it.
        measures: The measure of each threshold, by its name.
    """

    first: tuple[str, ...]
    measures: Mapping[str, str]


# What tells a broken model apart stays: few corridors hold one.
_BORDERS = (
    _Border(ZONES[:1], {"drift_prompt": "drift_prompt", "tilt": "tilt"}),
    _Border(ZONES[:2], {"language_keep": "language"}),
    _Border(ZONES[:3], {"language_lost": "language", "spread": "spread"}),
)


def calibrate(labelled: Sequence[Labelled], begin: Thresholds | None = None) -> Calibration:
    """Find the thresholds that agree best with labels, and count by leave-one-out what that is worth.

    Only the five thresholds between the zones of the corridor are moved (see `best_thresholds`).

    Args:
        labelled: At least one label.
        begin: Where the search begins and what it keeps to without gain; None for the defaults.
    """
    begin = begin or Thresholds()
    found = best_thresholds(labelled, begin)
    without = (best_thresholds([*labelled[:i], *labelled[i + 1 :]], begin) for i in range(len(labelled)))
    said = {label.zone for label in labelled}
    return Calibration(
        thresholds=found,
        moved=_moved(found, begin),
        labels=len(labelled),
        before=agreement(labelled, begin),
        after=agreement(labelled, found),
        left_out=sum(
            agreement([label], thresholds) for label, thresholds in zip(labelled, without, strict=True)
        ),
        missing=tuple(zone for zone in ZONES[:4] if zone not in said),
    )


def agreement(labelled: Iterable[Labelled], thresholds: Thresholds) -> int:
    """How many labels are the zone that thresholds give."""
    return sum(zone_of(label.measures, thresholds) == label.zone for label in labelled)


def best_thresholds(labelled: Sequence[Labelled], begin: Thresholds) -> Thresholds:
    """Move as few thresholds as the labels ask for.

    Border by border, and again until nothing is gained, all pairs of candidates are tried: halfway between
    neighbouring values of a measure whose labels lie on different sides of the border, and where the search
    began. More labels met win; then fewer thresholds that have moved; then labels missed by fewer zones; then
    the shorter way. So without one more label met no threshold moves, and the labels' order is nothing.

    Args:
        labelled: Labels; nothing moves where there are none.
        begin: Where the search begins.
    """
    labelled = [label for label in labelled if label.zone in ZONES]

    def cost(thresholds: Thresholds) -> tuple[float, ...]:
        zones = [zone_of(label.measures, thresholds) for label in labelled]
        far = [
            abs(ZONES.index(zone) - ZONES.index(label.zone))
            for zone, label in zip(zones, labelled, strict=True)
        ]
        return (
            sum(map(bool, far)),
            len(_moved(thresholds, begin)),
            sum(far),
            round(_way(thresholds, begin), 9),
            *thresholds.numbers().values(),
        )

    best = begin
    while True:
        found = best
        for border in _BORDERS:
            found = min(_around(found, begin, border, labelled), key=cost)
        if found == best:
            return _with_what_need_not_move(best, begin, cost)
        best = found


def _around(
    at: Thresholds, begin: Thresholds, border: _Border, labelled: Sequence[Labelled]
) -> list[Thresholds]:
    """The thresholds with every combination of candidates at one border."""
    choices = {
        name: sorted({getattr(at, name), getattr(begin, name), *_candidates(labelled, border.first, measure)})
        for name, measure in border.measures.items()
    }
    found = []
    for values in product(*choices.values()):
        changed = dict(zip(choices, values, strict=True))
        keep = changed.get("language_keep", at.language_keep)
        if changed.get("language_lost", at.language_lost) <= keep:
            found.append(replace(at, **changed))
    return found


def _candidates(labelled: Sequence[Labelled], first: tuple[str, ...], measure: str) -> set[float]:
    """Values of a threshold at which another label is met or missed, with four digits."""
    sides: dict[float, set[bool]] = {}
    for label in labelled:
        if math.isfinite(value := label.measures[measure]):
            sides.setdefault(value, set()).add(label.zone in first)
    values = sorted(sides)
    between = [(low + high) / 2 for low, high in pairwise(values) if len(sides[low] | sides[high]) == 2]
    ends = [values[0] * _MORE, values[-1] / _MORE] if values else []
    rounded = (float(f"{value:.4g}") for value in (*between, *ends))
    return {value for value in rounded if 0 < value < 1}


def _with_what_need_not_move(
    found: Thresholds, begin: Thresholds, cost: Callable[[Thresholds], tuple[float, ...]]
) -> Thresholds:
    """Put back what a later move has made needless."""
    for name in _moved(found, begin):
        value = getattr(begin, name)
        keep, lost = (
            value if name == each else getattr(found, each) for each in ("language_keep", "language_lost")
        )
        if lost <= keep and cost(back := replace(found, **{name: value})) < cost(found):
            found = back
    return found


def _moved(thresholds: Thresholds, begin: Thresholds) -> tuple[str, ...]:
    before = begin.numbers()
    return tuple(name for name, value in thresholds.numbers().items() if value != before[name])


def _way(thresholds: Thresholds, begin: Thresholds) -> float:
    """How far the thresholds have moved: the sum of the logarithms of their ratios."""
    before = begin.numbers()
    return sum(abs(math.log(value / before[name])) for name, value in thresholds.numbers().items())
