"""How far a fit has come, whether it still goes on, and how long it will take."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_drift.common.lock import is_held
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.run_config import end as configured_end
from lightning_drift.tensorboard.logged import Logged

RECENT = 600.0
"""Seconds for which a fit counts as running after it logged something, where its lock does not tell.

Rendering the pictures of a milestone takes minutes.
"""


@dataclass(frozen=True)
class Progress:
    """A run's progress.

    Attributes:
        run: The run's name.
        step: The last step that it logged; None if it has logged nothing.
        end: The step it ends at, as configured; None without one.
        running: Whether it goes on.
        seconds_left: From its last step to its end, at its own pace; None where that cannot be told.
    """

    run: str
    step: int | None
    end: int | None
    running: bool
    seconds_left: float | None


def progress(run: RecordedRun, logged: Logged, now: float) -> Progress:
    """The progress of a run.

    Args:
        run: The run.
        logged: What it logged.
        now: Seconds since 1970.
    """
    end = last_step(run)
    ended = end is not None and logged.last_step is not None and logged.last_step >= end
    running = is_running(run, logged.last_time, ended, now)
    left = None
    if running and end is not None and logged.last_step is not None and (each := pace(run, logged.times)):
        left = round(max(0, end - logged.last_step) * each, 1)
    return Progress(run.name, logged.last_step, end, running, left)


def last_step(run: RecordedRun) -> int | None:
    """The step at which a run's configuration, or that of its last resume, ends it."""
    return next(filter(None, map(configured_end, (*reversed(run.resumes), run.config))), None)


def is_running(run: RecordedRun, last_time: float | None, ended: bool, now: float) -> bool:
    """Whether a fit goes on: its lock tells, or if that is of another computer, what it logged just now."""
    if run.soup:
        return False
    held = is_held(run.folder)
    if held is not None:
        return held
    return not ended and last_time is not None and now - last_time < RECENT


def pace(run: RecordedRun, times: Sequence[tuple[int, float]]) -> float | None:
    """Seconds a step takes, pictures and measures between them included, since the last resume."""
    begin = resumed_at(run)
    since = [(step, time) for step, time in times if step > begin]
    if len(since) < 2:
        return None
    (first, start), (last, stop) = since[0], since[-1]
    seconds = (stop - start) / (last - first)
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def resumed_at(run: RecordedRun) -> int:
    """The step of a run's last resume; 0 if it was not resumed."""
    names = (
        re.fullmatch(r"config\.resume-([0-9]{1,11})\.yaml", path.name)
        for path in run.folder.glob("config.resume-*")
    )
    return max((int(match[1]) for match in names if match), default=0)
