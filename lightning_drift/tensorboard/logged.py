"""What TensorBoard has read of runs: scalars and texts of its data provider, as the table needs them."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tensorboard.data.provider import RunTagFilter  # type: ignore[import-untyped]

from lightning_drift.corridor.event_files import MAX_STEP
from lightning_drift.drift.descriptions import DESCRIPTIONS

MOST_POINTS = 10_000
"""Points of a curve that are asked for; TensorBoard keeps 1,000 of each unless it is told otherwise."""

_SCALARS, _TEXTS = "scalars", "text"  # the plugins that own them
_VERDICT = "drift/verdict/text_summary"
_DESCRIBED = {tag for each in DESCRIPTIONS for tag in (each.tag, each.beside) if tag}


@dataclass(frozen=True)
class Logged:
    """What a run has logged.

    Attributes:
        last_step: The highest step of any scalar; None without any.
        last_time: When the newest scalar was logged, in seconds since 1970; None without any.
        scalars: Scalars that the corridor shows, by tag, in the order of steps.
        verdicts: The verdict's text by step. TensorBoard keeps few texts of each run.
        times: Steps and seconds of the curve that tells the fit's pace.
    """

    last_step: int | None = None
    last_time: float | None = None
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    verdicts: dict[int, str] = field(default_factory=dict)
    times: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Provider:
    """TensorBoard's data provider, asked on behalf of one request.

    Args:
        provider: The provider.
        context: The request's context.
        experiment: The request's experiment.
    """

    provider: Any
    context: Any
    experiment: str

    @cached_property
    def runs(self) -> list[str]:
        """The names of all runs: their folders' paths from the log folder."""
        return [run.run_name for run in self.provider.list_runs(self.context, experiment_id=self.experiment)]

    def last(self, runs: Collection[str]) -> dict[str, tuple[int, float]]:
        """The highest step and the newest time of each run that has scalars."""
        return _ends(self._scalars(runs))

    def read(self, runs: Collection[str]) -> dict[str, Logged]:
        """What runs have logged; a run of which TensorBoard has read nothing yet has logged nothing."""
        listed = self._scalars(runs)
        shown = {
            tag for tags in listed.values() for tag in tags if tag.startswith("drift") or tag in _DESCRIBED
        }
        pace = {
            run: max(tags, key=lambda tag: (tags[tag].max_step, tag)) for run, tags in listed.items() if tags
        }
        data = self.provider.read_scalars(
            self.context,
            experiment_id=self.experiment,
            plugin_name=_SCALARS,
            downsample=MOST_POINTS,
            run_tag_filter=RunTagFilter(runs=list(runs), tags=sorted(shown | {*pace.values()})),
        )
        ends, verdicts = _ends(listed), self._verdicts(runs)
        logged = {}
        for run in runs:
            points = {tag: _points(series) for tag, series in data.get(run, {}).items()}
            step, time = ends.get(run, (None, None))
            logged[run] = Logged(
                step,
                time,
                {tag: [(at, value) for at, value, _ in points[tag]] for tag in sorted(shown & points.keys())},
                verdicts.get(run, {}),
                [(at, seconds) for at, _, seconds in points.get(pace.get(run, ""), [])],
            )
        return logged

    def _scalars(self, runs: Collection[str]) -> Any:
        return self.provider.list_scalars(
            self.context,
            experiment_id=self.experiment,
            plugin_name=_SCALARS,
            run_tag_filter=RunTagFilter(runs=list(runs)),
        )

    def _verdicts(self, runs: Collection[str]) -> dict[str, dict[int, str]]:
        data = self.provider.read_tensors(
            self.context,
            experiment_id=self.experiment,
            plugin_name=_TEXTS,
            downsample=MOST_POINTS,
            run_tag_filter=RunTagFilter(runs=list(runs), tags=[_VERDICT]),
        )
        return {
            run: {
                int(datum.step): _text(datum.numpy)
                for datum in sorted(tags.get(_VERDICT, []), key=lambda datum: datum.wall_time)
                if 0 <= datum.step <= MAX_STEP
            }
            for run, tags in (data or {}).items()
        }


def _ends(listed: Any) -> dict[str, tuple[int, float]]:
    """The highest step and the newest time of each run, of its listed scalars."""
    return {
        run: (
            max(int(series.max_step) for series in tags.values()),
            max(float(series.max_wall_time) for series in tags.values()),
        )
        for run, tags in listed.items()
        if tags
    }


def _points(series: Any) -> list[tuple[int, float, float]]:
    """Steps, values and times in the order of steps; of a step that was logged again the newer value."""
    newest = {
        int(datum.step): (float(datum.value), float(datum.wall_time))
        for datum in sorted(series, key=lambda datum: datum.wall_time)
        if 0 <= datum.step <= MAX_STEP
    }
    return [(step, *newest[step]) for step in sorted(newest)]


def _text(array: Any) -> str:
    values = array.reshape(-1).tolist()
    value = values[0] if values else b""
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
