"""Where the curves of the measures lie on their charts: one line per learning rate, with its interval."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import floor, log10
from typing import ClassVar, NamedTuple

from lightning_drift.corridor.recorded_run import Point, RecordedRun
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.corridor.wording import labels, long_labels
from lightning_drift.drift.descriptions import DESCRIPTIONS, Description

POSITION = "drift/position"
LOSS = "train/loss"
LOSS_POINTS = 40
"""Points at most that the training loss of a run is averaged to: that of single steps is noise."""

_LARGEST = 1e30
"""Larger values are left out: what overflows tells nothing, and no axis can show it."""

_UNLISTED = {"drift/zone", "drift/borderline"}  # the map shows them


class Mark(NamedTuple):
    """A number written at an axis, and the coordinate where it stands."""

    at: float
    text: str


class Band(NamedTuple):
    """A zone's part of the vertical axis."""

    zone: str
    top: float
    height: float


class Dot(NamedTuple):
    """A milestone on a line."""

    x: float
    y: float
    about: str


@dataclass(frozen=True)
class Line:
    """A run's line.

    Attributes:
        shade: 0 to 5, from the lowest learning rate to the highest.
        beside: Whether it is of the measure's companion, and dashed.
        path: Its points as the data of an SVG path.
        interval: The outline of its 90 % intervals likewise; empty without any.
        dots: Its milestones; empty where they are too many to tell apart.
    """

    shade: int
    beside: bool
    path: str
    interval: str
    dots: list[Dot]


@dataclass(frozen=True)
class Curve:
    """A chart of a measure over the steps, in the coordinates of an SVG image of ``WIDTH`` x ``HEIGHT``.

    Attributes:
        title: What the measure is called.
        about: What it says; may be empty.
        summary: Where each line ends, in words.
        bands: The zones behind the position.
        rules: Horizontal lines.
        thresholds: Where the verdict changes.
        steps: Numbers below the chart.
        lines: One for each run that logged the measure.
    """

    WIDTH: ClassVar = 320
    HEIGHT: ClassVar = 170
    LEFT: ClassVar = 42
    RIGHT: ClassVar = 310
    TOP: ClassVar = 10
    BOTTOM: ClassVar = 146

    title: str
    about: str
    summary: str
    bands: list[Band]
    rules: list[Mark]
    thresholds: list[Mark]
    steps: list[Mark]
    lines: list[Line]

    @property
    def has_beside(self) -> bool:
        """Whether the measure's companion was logged, such as the loss on held-out photos."""
        return any(line.beside for line in self.lines)


def curves(table: CorridorTable, decides: bool, shown: Sequence[int] | None = None) -> list[Curve]:
    """The charts of all measures that any run logged.

    Args:
        table: The corridor.
        shown: The positions of the runs whose lines are drawn; None for all.
        decides: Those that the verdict depends on, or those that explain. Measures without a description are
            among the latter, under their tag.
    """
    described = [each for each in DESCRIPTIONS if each.decides is decides]
    if not decides:
        known = {tag for each in DESCRIPTIONS for tag in (each.tag, each.beside)} | _UNLISTED
        tags = dict.fromkeys(tag for run in table.runs for tag in run.scalars)
        unknown = [tag for tag in tags if _is_measure(tag) and tag not in known]
        described += [Description(tag, tag.removeprefix("drift/"), "") for tag in unknown]
    names, spoken = labels(table), long_labels(table)
    drawn = range(len(table.runs)) if shown is None else shown
    charts = (_curve(table, each, drawn, names, spoken) for each in described)
    return [chart for chart in charts if chart is not None]


def shade(index: int, count: int) -> int:
    """The shade of a run among all, 0 to 5 from cold to hot."""
    return 3 if count == 1 else round(5 * index / (count - 1))


def _is_measure(tag: str) -> bool:
    return tag.startswith("drift/") and tag.count("/") == 1


def _curve(
    table: CorridorTable,
    description: Description,
    shown: Sequence[int],
    names: Sequence[str],
    spoken: Sequence[str],
) -> Curve | None:
    """A measure's chart; None if no run logged it."""
    tags = {False: description.tag} | ({True: description.beside} if description.beside else {})
    width = _loss_width(table) if description.tag == LOSS else 1
    drawn = [
        (index, beside, points)
        for beside, tag in tags.items()
        for index in shown
        if (points := _means(_points(table.runs[index], tag), width))
    ]
    if not drawn:
        return None
    every = [point for _, _, points in drawn for point in points]
    last = max(point.step for point in every) or 1
    thresholds = _thresholds(table, description)
    zones: list[str] = []
    if description.tag == POSITION:
        zones, marks = ["under", "dreaming", "forgetting", "cooked"], [0.0, 25.0, 50.0, 75.0, 100.0]
    else:
        low, high = min(p.low for p in every), max(p.high for p in every)
        marks = _ticks(min(0.0, low), max([high, *thresholds]))
    bottom, top = marks[0], marks[-1]

    def x(step: float) -> float:
        return round(Curve.LEFT + (Curve.RIGHT - Curve.LEFT) * step / last, 1)

    def y(value: float) -> float:
        share = min(max((value - bottom) / (top - bottom), 0.0), 1.0)
        return round(Curve.BOTTOM - (Curve.BOTTOM - Curve.TOP) * share, 1)

    def line(index: int, beside: bool, points: list[Point]) -> Line:
        path = _path((x(p.step), y(p.value)) for p in points)
        interval = ""
        if any(p.low < p.high for p in points):
            edge = [(x(p.step), y(p.high)) for p in points] + [(x(p.step), y(p.low)) for p in points[::-1]]
            interval = _path(edge) + "Z"
        few = points if len(points) <= 12 else []
        dots = [Dot(x(p.step), y(p.value), _about(names[index], p)) for p in few]
        return Line(shade(index, len(table.runs)), beside, path, interval, dots)

    bands = [
        Band(zone, y(high), round(y(low) - y(high), 1))
        for zone, (low, high) in zip(zones, pairwise(marks), strict=False)
    ]
    ends = [
        f"{spoken[index]}{', dashed,' if beside else ''} ends at {points[-1].value:.3g}"
        for index, beside, points in drawn
    ]
    return Curve(
        description.title,
        f"{description.about} Each point is the mean of what was logged in {width} steps."
        if width > 1
        else description.about,
        f"{description.title} over optimizer steps: {'; '.join(ends)}",
        bands,
        [Mark(y(mark), f"{mark:g}") for mark in marks],
        [Mark(y(value), f"{value:g}") for value in thresholds],
        [Mark(x(step), str(step)) for step in _shown_steps(every, last)],
        [line(*each) for each in drawn],
    )


def _points(run: RecordedRun, tag: str) -> list[Point]:
    if _is_measure(tag):
        points = run.readings(tag.removeprefix("drift/"))
    else:
        points = [Point(step, value, value, value) for step, value in run.scalars.get(tag, [])]
    return [point for point in points if all(map(_can_be_drawn, point))]


def _loss_width(table: CorridorTable) -> int:
    """Over how many steps the training loss is averaged: a round number, the same for all runs."""
    last = max((step for run in table.runs for step, _ in run.scalars.get(LOSS, [])), default=0)
    least = -(-last // LOSS_POINTS)
    power: int = 10 ** (len(str(least)) - 1)
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def _means(points: list[Point], width: int) -> list[Point]:
    """Means over as many steps each (1 to ``width``, and so on), at the last one that was logged."""
    if width == 1:
        return points
    groups = [[*group] for _, group in groupby(points, lambda point: (point.step - 1) // width)]
    means = [sum(point.value for point in group) / len(group) for group in groups]
    return [Point(group[-1].step, mean, mean, mean) for group, mean in zip(groups, means, strict=True)]


def _thresholds(table: CorridorTable, description: Description) -> list[float]:
    """Where the verdict changes, as the runs logged it."""
    tags = [f"corridor/{name}" for name in description.thresholds]
    values = {run.scalars[tag][-1][1] for tag in tags for run in table.runs if tag in run.scalars}
    return sorted(round(value, 6) for value in values if _can_be_drawn(value))


def _can_be_drawn(value: float) -> bool:
    return abs(value) <= _LARGEST  # neither is NaN


def _about(label: str, point: Point) -> str:
    interval = f" ({point.low:.3g} to {point.high:.3g})" if point.low < point.high else ""
    return f"{label}, step {point.step}: {point.value:.3g}{interval}"


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def _shown_steps(points: list[Point], last: int) -> list[int]:
    """The milestones; where they are many, round numbers."""
    steps = sorted({point.step for point in points})
    return steps if len(steps) <= 6 else [0, *(int(tick) for tick in _ticks(0, last)[1:] if tick <= last)]


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose a range."""
    span = high - low
    if span < 1 / _LARGEST:
        span = 1.0
    power = 10 ** floor(log10(span / 3))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 4)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    # Ten digits of each, so that marks of tiny values stay apart.
    return [float(f"{step * index:.10g}") for index in range(first, max(last, first + 1) + 1)]
