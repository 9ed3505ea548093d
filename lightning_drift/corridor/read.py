"""Runs as their event files tell them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_drift.corridor.event_files import PATTERN, Events
from lightning_drift.corridor.find_runs import find_runs, planned_run
from lightning_drift.corridor.inside import all_lie_in
from lightning_drift.corridor.plan import Row
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.table import CorridorTable, tabulate


def read(folder: Path, own: bool = False, strict: bool = False) -> CorridorTable:
    """Read a corridor's folder, a subject's folder with several runs, or the folder of one run.

    A run that is damaged is passed over with a remark, unless it is the only one.

    Args:
        folder: The folder.
        strict: Whether a damaged configuration ends the reading, as is right for who goes on with the fits.
        own: Whether the caller made the runs. Of somebody else's nothing outside the folder is read.

    Raises:
        UserError: There is no run in it that can be read.
    """
    found = find_runs(folder, None if own else folder, strict)
    for run in found.runs:
        _read_events(run)
    return tabulate(found, own)


def read_run(folder: Path, row: Row, planned: Mapping[str, Any]) -> RecordedRun:
    """Read one run of one's own corridor, and nothing of its others: a driver asks for each of many.

    Args:
        folder: The corridor's folder.
        row: Which run; it may not have begun.
        planned: The configuration that the corridor's fits share.

    Raises:
        UserError: Its configuration is damaged.
    """
    run = planned_run(folder, row, dict(planned), None, strict=True)
    _read_events(run)
    return run


def _read_events(run: RecordedRun) -> None:
    """Add the scalars and verdicts that a run logged; remarks tell what is damaged or lies elsewhere."""
    events = Events(run.remarks)
    for path in sorted(run.folder.glob(PATTERN)):
        if all_lie_in((path,), run.root, run.remarks):
            events.read(path)
    run.scalars = {tag: sorted(points.items()) for tag, points in events.scalars.items()}
    for tag in ("drift/verdict/text_summary", "drift/verdict"):
        run.verdicts |= events.texts.get(tag, {})
