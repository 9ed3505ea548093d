"""Curves of the measures as inline SVG: one line a learning rate, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import floor, isfinite, log10

from lightning_drift.corridor.read import CorridorTable, Point, RecordedRun
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL
from lightning_drift.fit.runs import rate_text

WIDTH, HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 10, 24


@dataclass(frozen=True)
class Measure:
    """A measure as the page presents it.

    Attributes:
        tag: Its TensorBoard tag.
        title: What it is called.
        about: What it says, in a sentence.
    """

    tag: str
    title: str
    about: str

    @property
    def name(self) -> str:
        """The tag without its group."""
        return self.tag.removeprefix("drift/")

    @property
    def decides(self) -> bool:
        """Whether the verdict depends on it, or it is the verdict."""
        return self.name in ("position", *DECIDING, *WITH_MODEL)


CURVES = (
    Measure(
        "drift/position",
        "position",
        "Along the corridor: 25 dreaming begins, 50 forgetting, 75 lost. A broken model has none.",
    ),
    Measure("drift/language", "language", "How much prompts still decide: adherence and retrieval joined."),
    Measure("drift/drift_prompt", "drift in prompts", "1 is as far as to another prompt's picture."),
    Measure("drift/tilt", "tilt", "Change of the composition; 1 is as much as another seed."),
    Measure("drift/spread", "spread", "How far prompts lie apart; the base is 1, at 0 all give one picture."),
    Measure("drift/pull", "pull", "Closeness to the photos; 0 the base, 1 the photos among themselves."),
    Measure("drift/aim", "aim", "Whether the change points at the photos; 1 straight at them."),
    Measure("drift/copy", "copy", "Share of pictures that nearly repeat a photo."),
    Measure("drift/likeness", "likeness", "How like some photo the pictures are; 0 the base, 1 a copy."),
    Measure(
        "drift/photo_loss",
        "loss on the photos",
        "The denoiser's error on the training photos; base 1. A fit lowers it, damage does not.",
    ),
    Measure("drift/adherence", "adherence", "How much better a picture fits its prompt than others; base 1."),
    Measure("drift/retrieval", "retrieval", "How often a picture is recognised by its prompt; base 1."),
    Measure("drift/drift", "drift", "Distance to the base's picture; 1 is as far as to another seed's."),
    Measure("drift/coherence", "coherence", "Whether all pictures change in the same direction; 1 all."),
    Measure("drift/colour", "colour", "Shift of the colours; 1 is as much as another seed."),
    Measure("drift/delta_e", "delta E", "The same shift in CIELAB; 2.3 is just noticeable."),
    Measure(
        "drift/palette_pull", "palette pull", "How far the colours went to those of the photos; 1 there."
    ),
    Measure(
        "drift/diversity",
        "diversity",
        "How far seeds of one prompt lie apart; base 1. It rises before it falls.",
    ),
    Measure("drift/vendi", "Vendi score", "The effective number of different pictures; base 1."),
    Measure(
        "drift/clip_t", "CLIP-T", "Plain similarity of picture and prompt; it can rise while language dies."
    ),
    Measure("drift/text", "text encoder", "Similarity of the prompts' embeddings to the base's; base 1."),
    Measure("drift/guidance", "guidance", "What a prompt changes in the denoiser; base 1, not monotone."),
    Measure(
        "drift/sensitivity",
        "sensitivity",
        "What another prompt changes in the denoiser; base 1, not monotone.",
    ),
    Measure(
        "drift/dc_accuracy", "classifier accuracy", "How often the denoiser recognises its prompt; noisy."
    ),
    Measure("drift/weights/unet", "weights, UNet", "Relative change of all weights: the dose."),
    Measure("drift/weights/text_encoder", "weights, text encoder", "Relative change of all weights."),
    Measure("train/loss", "training loss", "It says nothing about the zone."),
)
_THRESHOLDS = {
    "position": (),
    "language": ("language_keep", "language_lost"),
}
"""Names of thresholds, where they differ from the measure's."""

_HIDDEN = {"drift/zone", "drift/borderline"}


def figures(table: CorridorTable, decides: bool) -> str:
    """The charts of all measures that any run logged, as HTML figures.

    Args:
        table: The corridor.
        decides: Those that the verdict depends on, or those that explain. Tags that are not listed above are
            shown among the latter under their own name.
    """
    known = {measure.tag for measure in CURVES}
    measures = [measure for measure in CURVES if measure.decides is decides]
    if not decides:
        tags = dict.fromkeys(tag for run in table.runs for tag in run.scalars)
        others = [tag for tag in tags if tag.startswith("drift/") and tag not in known | _HIDDEN]
        measures += [Measure(tag, tag.removeprefix("drift/"), "") for tag in others if tag.count("/") == 1]
    return "\n".join(filter(None, (_figure(table, measure) for measure in measures)))


def _figure(table: CorridorTable, measure: Measure) -> str:
    lines = [(index, run, _points(run, measure.tag)) for index, run in enumerate(table.runs)]
    lines = [(index, run, points) for index, run, points in lines if points]
    if not lines:
        return ""
    about = f"<p>{escape(measure.about)}</p>" if measure.about else ""
    return (
        f'<figure class="curve"><figcaption><h3>{escape(measure.title)}</h3>{about}</figcaption>'
        f"{_chart(measure, lines, len(table.runs), _thresholds(table, measure))}</figure>"
    )


def _thresholds(table: CorridorTable, measure: Measure) -> list[float]:
    """Where the verdict changes, as the runs logged it."""
    names = _THRESHOLDS.get(measure.name, (measure.name,)) if measure.decides else ()
    tags = [f"corridor/{name}" for name in names]
    values = {run.scalars[tag][-1][1] for tag in tags for run in table.runs if tag in run.scalars}
    return sorted(round(value, 6) for value in values)


def _points(run: RecordedRun, tag: str) -> list[Point]:
    if tag.startswith("drift/") and tag.count("/") == 1:
        points = run.readings(tag.removeprefix("drift/"))
    else:
        points = [Point(step, value, value, value) for step, value in run.scalars.get(tag, [])]
        if tag == "train/loss":
            points = _means(points, 40)
    return [point for point in points if all(map(isfinite, point))]


def _means(points: list[Point], most: int) -> list[Point]:
    """Means of equally many points each: the loss of single steps is noise."""
    size = -(-len(points) // most) if points else 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [sum(point.value for point in group) / len(group) for group in groups]
    return [Point(group[-1].step, mean, mean, mean) for group, mean in zip(groups, means, strict=True)]


def _chart(
    measure: Measure,
    lines: Sequence[tuple[int, RecordedRun, list[Point]]],
    rates: int,
    thresholds: Sequence[float],
) -> str:
    every = [point for _, _, points in lines for point in points]
    last = max(point.step for point in every) or 1
    marks = _ticks(min([0.0, *(p.low for p in every)]), max([*(p.high for p in every), *thresholds]))
    if measure.tag == "drift/position":
        marks = [0.0, 25.0, 50.0, 75.0, 100.0]
    bottom, top = marks[0], marks[-1]

    def x(step: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * step / last, 1)

    def y(value: float) -> float:
        share = (value - bottom) / ((top - bottom) or 1)
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * min(max(share, 0.0), 1.0), 1)

    parts = []
    if measure.tag == "drift/position":
        for zone, (low, high) in zip(
            ("under", "dreaming", "forgetting", "cooked"), pairwise(marks), strict=True
        ):
            box = (
                f'x="{_LEFT}" y="{y(high)}" width="{WIDTH - _LEFT - _RIGHT}" height="{y(low) - y(high):.1f}"'
            )
            parts.append(f'<rect class="band {zone}" {box}/>')
    for mark in marks:
        parts.append(f'<path class="rule" d="M{_LEFT} {y(mark)}H{WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(mark) + 3.5}" text-anchor="end">{mark:g}</text>'
        )
    for value in thresholds:
        line = f'<path class="threshold" d="M{_LEFT} {y(value)}H{WIDTH - _RIGHT}"/>'
        parts.append(f"<g><title>threshold {value:g}</title>{line}</g>")
    milestones = sorted({point.step for point in every})
    if len(milestones) > 6:
        milestones = [0, *(int(tick) for tick in _ticks(0, last)[1:] if tick <= last)]
    for step in milestones:
        end = "end" if step == milestones[-1] and len(milestones) > 1 else "middle"
        parts.append(f'<text class="tick" x="{x(step)}" y="{HEIGHT - 8}" text-anchor="{end}">{step}</text>')
    for index, run, points in lines:
        shade = f"rate r{_shade(index, rates)}"
        if any(point.low < point.high for point in points):
            edge = [f"{x(p.step)} {y(p.high)}" for p in points]
            edge += [f"{x(p.step)} {y(p.low)}" for p in reversed(points)]
            parts.append(f'<path class="{shade} interval" d="M{"L".join(edge)}Z"/>')
        path = "L".join(f"{x(p.step)} {y(p.value)}" for p in points)
        parts.append(f'<path class="{shade} line" d="M{path}"/>')
        if len(points) <= 12:
            for point in points:
                told = f"lr {rate_text(run.rate)}, step {point.step}: {point.value:.3g}"
                if point.low < point.high:
                    told += f" ({point.low:.3g} to {point.high:.3g})"
                dot = f'<circle cx="{x(point.step)}" cy="{y(point.value)}" r="3"/>'
                hit = f'<circle class="hit" cx="{x(point.step)}" cy="{y(point.value)}" r="10"/>'
                parts.append(f'<g class="{shade} dot"><title>{told}</title>{dot}{hit}</g>')
    ends = "; ".join(
        f"learning rate {rate_text(run.rate)} ends at {points[-1].value:.3g}" for _, run, points in lines
    )
    label = escape(f"{measure.title} over optimizer steps: {ends}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def legend(table: CorridorTable) -> str:
    """Which line is which learning rate."""
    keys = "".join(
        '<span class="key"><svg viewBox="0 0 22 8" aria-hidden="true">'
        f'<path class="rate r{_shade(i, len(table.runs))} line" d="M1 4H21"/></svg>{escape(name)}</span>'
        for i, name in enumerate(labels(table))
    )
    about = "bands: 90 % intervals over seeds (or photos); dashed: thresholds of the verdict"
    return f'<p class="legend">{keys}<span class="faint">{about}</span></p>'


def labels(table: CorridorTable) -> list[str]:
    """The runs' names on the page: the learning rates, or the folders where two runs share one."""
    rates = [run.label for run in table.runs]
    return [run.name if rates.count(run.label) > 1 else f"lr {run.label}" for run in table.runs]


def _shade(index: int, count: int) -> int:
    """Rates from cold to hot in six shades."""
    return 3 if count == 1 else round(5 * index / (count - 1))


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose a range."""
    span = (high - low) or 1.0
    power = 10 ** floor(log10(span / 3))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 4)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    return [round(step * index, 10) for index in range(first, max(last, first + 1) + 1)]
