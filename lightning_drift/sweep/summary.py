"""Tables of means: what guidance, steps, drift or a group of prompts do to the measures."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_drift.sweep.index import Index, number
from lightning_drift.sweep.measure import PICTURE_MEASURES

MOST_VALUES = 100
_SHOWN = ("drift_from_base", "pull", "adherence", "clip_t", "diversity", "tilt", "delta_e", "chroma")


@dataclass(frozen=True)
class MeansTable:
    """A table of means.

    Attributes:
        title: Its heading.
        head: Headings of its columns.
        lines: Its cells as text, line by line.
    """

    title: str
    head: list[str]
    lines: list[list[str]]

    @property
    def markdown(self) -> str:
        """The table under its title."""
        bars = [self.head, ["---"] * len(self.head), *self.lines]
        body = "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in bars)
        return f"### {self.title}\n\n{body}"


def tables(index: Index) -> list[MeansTable]:
    """For each product of a sweep: one table per parameter that varies, and one over guidance and steps.

    Seeds are averaged over and get no table, nor do parameters with more than 100 values.
    """
    means: list[MeansTable] = []
    products = index.by("product")
    for (product,), part in products.items():
        where = f" ({product})" if len(products) > 1 else ""
        for parameter in part.varied:
            if parameter in ("seed", "product") or len(part.values(parameter)) > MOST_VALUES:
                continue
            means.append(_means(part, parameter, where))
        if {"guidance_scale", "num_inference_steps"} <= set(part.varied) and part.measures:
            means += [
                _grid(part, name, where) for name in ("drift_from_base", "tilt") if name in part.measures
            ]
    return means


def _means(part: Index, parameter: str, where: str) -> MeansTable:
    measures = [name for name in _SHOWN if name in part.measures]
    lines = []
    found = part.by(parameter)
    for value in _ordered(part.values(parameter)):
        rows = found[value,].rows
        means = [_mean([row[name] for row in rows if name in row]) for name in measures]
        lines.append([_text(value), str(len(rows)), *means])
    title = f"By {parameter.replace('_', ' ')}{where}"
    return MeansTable(
        title, [parameter.replace("_", " "), "pictures", *(n.replace("_", " ") for n in measures)], lines
    )


def _grid(part: Index, measure: str, where: str) -> MeansTable:
    columns = _ordered(part.values("num_inference_steps"))
    lines = []
    found = part.by("guidance_scale", "num_inference_steps")
    for scale in _ordered(part.values("guidance_scale")):
        rows = [found[scale, steps].rows if (scale, steps) in found else [] for steps in columns]
        lines.append(
            [number(scale), *(_mean([row[measure] for row in some if measure in row]) for some in rows)]
        )
    title = f"{measure.replace('_', ' ').capitalize()} by guidance scale and steps{where}"
    return MeansTable(title, ["guidance \\ steps", *map(str, columns)], lines)


def _ordered(values: Sequence[object]) -> list[object]:
    """Numbers in ascending order, words in the order of the rows."""
    if all(isinstance(value, int | float) for value in values):
        return sorted(values, key=lambda value: float(value))  # type: ignore[arg-type]
    return list(values)


def _text(value: object) -> str:
    text = number(value)
    return " ".join(text.split()) if text.strip() else "(none)"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = sum(values) / len(values)
    return f"{mean:.1f}" if abs(mean) >= 10 else f"{mean:.3f}"


def summary(index: Index, title: str) -> str:
    """All tables and what their columns are, as Markdown."""
    legend = "\n".join(f"- {name.replace('_', ' ')}: {PICTURE_MEASURES[name]}" for name in index.measures)
    parts = [f"# {title}", f"{len(index.rows)} pictures; means over those of a line.", legend]
    return "\n\n".join(filter(None, [*parts, *(table.markdown for table in tables(index))])) + "\n"
