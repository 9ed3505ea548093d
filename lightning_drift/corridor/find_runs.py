"""Which runs a folder holds, by its plan or its folders, and what their configurations say of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_text
from lightning_drift.corridor.event_files import PATTERN
from lightning_drift.corridor.inside import all_lie_in, lies_in
from lightning_drift.corridor.plan import FIT, PLAN, Row, read_plan, rows
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.run_config import checked, learning_rate, read_run_config

ERROR_FILE = "{run}.error.txt"
"""Beside a run folder of a corridor: why its fit failed, in a sentence."""

STOPPED_FILE = "{run}.stopped.txt"
"""Beside a run folder of a corridor: why its fit was stopped before its last step, in a sentence."""

SOUP = "_soup"
"""Ends the folder's name of the mean of a run and its siblings, which differ in their seeds."""


@dataclass(frozen=True)
class FoundRuns:
    """The runs of a corridor before anything is known of what they logged.

    Attributes:
        folder: Where they were looked for.
        runs: Ascending in the learning rate; those of a plan may not have begun.
        steps: The plan's steps; None without a plan, when the milestones of the runs are the steps.
        root: The folder that everything must lie in, links followed; None where it may lie anywhere.
        remarks: What is damaged or lies elsewhere and was passed over, in sentences.
    """

    folder: Path
    runs: list[RecordedRun]
    steps: list[int] | None
    root: Path | None
    remarks: list[str]


def find_runs(
    folder: Path, root: Path | None, strict: bool = False, wanted: Callable[[Path], bool] | None = None
) -> FoundRuns:
    """Find the runs in a folder and read what they are, but not what they logged.

    Args:
        folder: A corridor's folder, a subject's folder with several runs, or the folder of one run.
        root: The folder that everything must lie in; None where it may lie anywhere.
        strict: Whether a damaged configuration ends the reading.
        wanted: Which folders are runs, where no plan says it; None for all with a configuration and event
            files.

    Raises:
        UserError: There is no run in it that can be read.
    """
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}; give a corridor's folder or that of a run")
    remarks: list[str] = []
    plan = read_plan(folder) if all_lie_in((folder / PLAN, folder / FIT), root, remarks) else None
    steps: list[int] | None = None
    if plan is not None:
        rates, steps, seeds, fit = plan
        fit = checked(fit, folder / FIT)
        runs = []
        for row in rows(rates, seeds, fit):
            runs.append(planned_run(folder, row, fit, root, strict))
            soup = folder / f"{row.name}{SOUP}"
            runs += [_read_run(soup, root)] if _is_run(soup) else []
        runs.sort(key=lambda run: (run.rate, run.soup))
    else:
        runs = _found_runs(folder, root, strict, wanted or _is_run, remarks)
        runs.sort(key=lambda run: (run.rate, run.name))
    if not runs:
        raise UserError(f"{folder} holds no run: no folder with a config.yaml and event files in it")
    return FoundRuns(folder, runs, steps, root, remarks)


def _found_runs(
    folder: Path, root: Path | None, strict: bool, wanted: Callable[[Path], bool], remarks: list[str]
) -> list[RecordedRun]:
    if wanted(folder):
        return [_read_run(folder, root)]
    runs, refused = [], []
    for each in filter(wanted, sorted(path.parent for path in folder.glob("*/config.yaml"))):
        try:
            runs.append(_read_run(each, root))
        except UserError as error:
            refused.append(error)
    if refused and (strict or not runs):
        raise refused[0]
    remarks += [f"{error}; the page is without it" for error in refused]
    return runs


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / "config.yaml") and any(folder.glob(PATTERN))


def _read_run(folder: Path, root: Path | None) -> RecordedRun:
    """A run of its own.

    Raises:
        UserError: Its configuration is damaged, or lies elsewhere.
    """
    path = folder / "config.yaml"
    if not lies_in(path, root):
        raise UserError(f"{path} is a link that leads out of {root}")
    config = read_run_config(path)
    return _with_records(RecordedRun(folder.name, folder, learning_rate(config), config, root=root))


def planned_run(
    corridor: Path, row: Row, planned: dict[str, Any], root: Path | None, strict: bool
) -> RecordedRun:
    """A run of a corridor, which may not have begun; its rate and what is damaged are known from the plan.

    Args:
        corridor: The corridor's folder.
        row: Which run.
        planned: The configuration that all its fits share.
        root: The folder that everything must lie in; None where it may lie anywhere.
        strict: Whether a damaged configuration ends the reading.

    Raises:
        UserError: The configuration is damaged, and the reading strict.
    """
    if row.seed is not None:
        planned = {**planned, "seed_everything": row.seed}
    run = RecordedRun(row.name, corridor / row.name, row.rate, planned, root=root)
    path = run.folder / "config.yaml"
    if os.path.lexists(path) and all_lie_in((path,), root, run.remarks):
        try:
            run.config = read_run_config(path)
        except UserError as error:
            if strict:
                raise
            run.remarks.append(f"{error}; what was planned stands for it")
    return _with_records(run)


def _with_records(run: RecordedRun) -> RecordedRun:
    """Add what a run's files say beside its event files; remarks tell what is damaged or lies elsewhere."""
    for path in sorted(run.folder.glob("config.resume-*.yaml")):
        if all_lie_in((path,), run.root, run.remarks):
            try:
                run.resumes.append(read_run_config(path))
            except UserError as error:
                run.remarks.append(f"{error}; it is passed over")
    run.error = _beside(run, ERROR_FILE, "report of a failed fit")
    run.stopped_because = _beside(run, STOPPED_FILE, "report of a stopped fit")
    return run


def _beside(run: RecordedRun, name: str, what: str) -> str:
    """The sentence in a file beside a run's folder; empty where there is none."""
    path = run.folder.with_name(name.format(run=run.folder.name))
    if not os.path.lexists(path) or run.folder == run.root or not all_lie_in((path,), run.root, run.remarks):
        return ""
    try:
        return read_text(path, what).strip()
    except UserError as error:
        return error.message
