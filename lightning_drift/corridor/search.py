"""``corridor --search N``: Ray Tune chooses the learning rates and places their fits on a cluster."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from lightning_drift.common import ends
from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError, notice
from lightning_drift.corridor.fit_queue import describe, say
from lightning_drift.corridor.fit_trial import FitTrial, HopelessStopper, reported
from lightning_drift.corridor.fits import Fit, refuse_foreign, unfinished
from lightning_drift.corridor.plan import Plan, Row, joined, take_up
from lightning_drift.corridor.recorded_run import CorridorCell
from lightning_drift.corridor.search_plan import begun, readings, refuse_seeds
from lightning_drift.corridor.searcher import Known, MilestoneVerdict, RateSearch
from lightning_drift.launchers.job import Job
from lightning_drift.launchers.queue import MOST_LOST, Answer
from lightning_drift.launchers.ray_engine import RayLauncher

# Tune tells of all it does, in tables, by files in every logger's format, and at great length of a lost node.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
    "TUNE_WARN_THRESHOLD_S": "1000000",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


class RateSearcher(Searcher):  # type: ignore[misc]
    """`RateSearch` as Tune asks it.

    Args:
        search: The search, which knows all fits.
    """

    def __init__(self, search: "RateTuning") -> None:
        super().__init__()
        self._search = search

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next fit; None where it is to be asked again later."""
        try:
            return self._search.next(trial_id)
        except UserError as error:  # Tune would report it as its own
            self._search.error = error
            return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hear of a milestone."""
        self._search.heard(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Hear that a fit is over."""
        self._search.ended(trial_id, result or {}, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is known lies in the corridor's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


@dataclass
class _Begun:
    """A fit that runs."""

    fit: Fit
    last: MilestoneVerdict | None = None
    last_step: int = 0


class RateTuning:
    """Finds the learning rate whose fit dreams farthest along the corridor, in at most so many fits.

    The corridor's folder is all it remembers: fits that are there count, their verdicts are known to the
    search, and those that were interrupted go on first.

    Args:
        plan: The corridor; its lowest and highest rate are the ends of the range.
        most: How many fits are begun in all, at most.
        launcher: Where they run.
        after: Called after each fit that has ended, to renew the page.

    Attributes:
        plan: The corridor with all rates so far.
        known: What is known of each fit, by rate.
        failed: The fits that failed.
        error: What kept a fit from being begun.

    Raises:
        UserError: The folder holds a corridor that was set up in another way, or one with several seeds.
    """

    def __init__(self, plan: Plan, most: int, launcher: RayLauncher, after: Callable[[], None]) -> None:
        self._launcher, self._after = launcher, after
        self._wanted = replace(plan, rates=())
        self.plan = joined(self._wanted)
        refuse_seeds(self.plan)
        self._rates = RateSearch(plan.rates[0], plan.rates[-1], self.plan.steps)
        # Fits that run together learn nothing of each other; all at once they are a grid, and no better.
        self._together = min(min(launcher.places(), most), max(1, most // 2))
        self.failed: list[Row] = []
        self.error: UserError | None = None
        self._running: dict[str, _Begun] = {}
        self._strays: set[Row] = set()
        self.known: dict[float, Known] = {}
        self._waiting: list[Row] = []
        not_begun = []
        for row in self.plan.rows:
            if not begun(self.plan, row):
                not_begun.append(row)
                continue
            known = Known(readings(self.plan.run(row), self.plan.steps))
            self.known[row.rate] = known
            if not unfinished(self.plan, row)[0]:
                continue
            hopeless = [(step, reading) for step, reading in known.readings.items() if reading.hopeless]
            if hopeless:
                _stopped(Fit(self.plan, row), *hopeless[0])
            else:
                self._waiting.append(row)
                known.runs = True
        room = max(0, most - len(self.known))
        self._waiting += not_begun[:room]
        for row in not_begun[:room]:
            self.known[row.rate] = Known(runs=True)
        self._left = most - len(self.known)
        self._done = sum(not known.runs for known in self.known.values())

    def run(self) -> None:
        """Fit until the rates are told apart or the fits are used up.

        Raises:
            UserError: A fit cannot be begun.
            Ended: By a signal, after all fits were stopped in order.
        """
        if self._done:
            say(f"{_fits(self._done)} of this folder {'is' if self._done == 1 else 'are'} known already")
        if not self._waiting and self._left <= 0:
            return
        resources = {"cpu": self._launcher.cpus, "gpu": self._launcher.gpus}
        before = {name: os.environ.get(name) for name in _QUIET}
        os.environ.update(_QUIET)
        for name in ("ray.tune.tune", "ray.tune.execution.tune_controller"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told as those of fits
        try:
            with (
                tempfile.TemporaryDirectory(prefix="search-") as scratch,
                warnings.catch_warnings(),
                ends.held(),
            ):
                warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\.")
                warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.")
                tune.Tuner(
                    tune.with_resources(FitTrial, resources),
                    tune_config=tune.TuneConfig(
                        search_alg=RateSearcher(self),
                        num_samples=len(self._waiting) + max(0, self._left),
                        reuse_actors=False,
                        trial_dirname_creator=lambda trial: str(trial.trial_id),
                    ),
                    run_config=tune.RunConfig(
                        name="search",
                        storage_path=scratch,
                        stop=HopelessStopper(),
                        # A fit's own files are its checkpoints.
                        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                        failure_config=tune.FailureConfig(max_failures=MOST_LOST),
                        verbose=0,
                    ),
                ).fit()
        finally:
            for begun_fit in self._running.values():
                begun_fit.fit.release()
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
        if self.error is not None:
            raise self.error

    # -- what Tune asks and tells -----------------------------------------------------------------------

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next fit for a trial.

        Returns:
            What `FitTrial` needs; None where none is to be begun yet, ``FINISHED`` where none is left.
        """
        if len(self._running) >= self._together:
            return None
        row = self._waiting[0] if self._waiting else self._proposed()
        if row is None:
            return None if self._running and self._left > 0 else str(Searcher.FINISHED)
        self.plan = take_up(replace(self._wanted, rates=(row.rate,)))
        fit = Fit(self.plan, row, handed_on=False)
        job = fit.prepare()
        if job is Answer.BUSY:
            if row not in self._strays:
                self._strays.add(row)
                notice(f"{fit.folder}: another process fits there; waiting for it")
            return None
        if row in self._waiting:
            self._waiting.remove(row)
        known = self.known[row.rate]
        if not isinstance(job, Job):  # another process has finished it
            self.known[row.rate] = Known(readings(fit.folder, self.plan.steps))
            return None
        if not fit.begin and fit.folder.is_dir():
            refuse_foreign(fit.folder)
        self._running[trial_id] = _Begun(fit)
        where = f" from step {fit.begin}" if fit.begin else ""
        say(f"{fit.label}: fitting{where} on Ray, log in {fit.log}")
        return {
            "here": str(Path.cwd()),
            "run": str(fit.folder),
            "name": job.name,
            "words": list(job.words),
            "log": str(job.log),
            "steps": list(self.plan.steps),
            "known": sorted(known.readings),
            "gpus": self._launcher.gpus,
            "cpus": self._launcher.cpus,
        }

    def _proposed(self) -> Row | None:
        """A row with a rate that was not fitted; None if none is left, or none promises anything."""
        rate = self._rates.propose(self.known, self._together) if self._left > 0 else None
        if rate is None:
            return None
        self._left -= 1
        self.known[rate] = Known(runs=True)
        row = Row(rate, next((row.seed for row in self.plan.rows), None))
        self._waiting.append(row)
        return row

    def heard(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Take a milestone's verdict."""
        reading, running = reported(result), self._running.get(trial_id)
        if reading is None or running is None:
            return
        running.last, running.last_step = reading, int(result["milestone"])
        known = self.known[running.fit.row.rate].readings
        if known.get(running.last_step) == reading:  # from a node that was lost meanwhile
            return
        known[running.last_step] = reading
        zone, border, position = reading
        cell = CorridorCell(running.fit.folder.name, running.last_step, "measured", zone, border, position)
        say(f"{running.fit.label} x {running.last_step}: {describe(cell)}")

    def ended(self, trial_id: str, result: Mapping[str, Any], error: bool) -> None:
        """Take the end of a fit: by itself, by `HopelessStopper`, by a signal, or since Ray lost it."""
        self.heard(trial_id, result)
        running = self._running.pop(trial_id, None)
        if running is None:
            return
        fit, known = running.fit, self.known[running.fit.row.rate]
        fit.release()
        known.runs = False
        if ends.waits():
            return
        if running.last is not None and running.last.hopeless:
            if running.last_step < self.plan.steps[-1]:
                _stopped(fit, running.last_step, running.last)
                say(f"{fit.label}: stopped at step {running.last_step}, where it is {running.last.zone}")
        else:
            lost = "Ray lost it again and again" if error else ""
            fit.ended(lost or str(result.get("told", "")), int(result.get("exit_status", 1)))
            if fit.unreached:
                known.failed = True
                self.failed.append(fit.row)
                say(f"{fit.label}: failed. {fit.error_file.read_text(encoding='utf-8').strip()}")
            elif not known.readings:
                notice(f"{fit.label} has no verdict at any of the steps; see {fit.log}")
        self._after()

    def reached(self) -> str:
        """How far the search has come, in words."""
        return f"{_fits(sum(not known.runs for known in self.known.values()))} done"


def _stopped(fit: Fit, step: int, reading: MilestoneVerdict) -> None:
    """Note beside a run why the search leaves it where it is."""
    if not fit.error_file.exists():
        with atomic_write(fit.stopped_file) as file:
            file.write(
                f"The search stopped it at step {step}, where the model was {reading.zone}.\n".encode()
            )


def _fits(count: int) -> str:
    return f"{count} fit{'s' * (count != 1)}"
