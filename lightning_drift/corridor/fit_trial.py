"""One fit of a search as a trial of Ray Tune, on the node that Ray chose; and what stops it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from lightning_drift.common import ends
from lightning_drift.corridor.search_plan import readings
from lightning_drift.corridor.searcher import MilestoneVerdict
from lightning_drift.launchers import process
from lightning_drift.launchers.job import Job
from lightning_drift.launchers.ray_engine import on_a_node

_LOOK, _POLL = 5.0, 0.5
"""Seconds for which a trial waits for a milestone before Tune may speak to it, and between its looks."""


class FitTrial(tune.Trainable):  # type: ignore[misc]
    """One fit as a trial of Tune: a process on the node that Ray chose, which Tune hears of by milestones.

    A trial that Ray begins again, since its node was lost, goes on from the fit's files. The process ends in
    order when the trial is stopped, and with its worker, however that ends.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take what `RateTuning.next` gave."""
        self._config = config
        self._run = Path(config["here"]) / config["run"]
        self._process: Any = None
        self._told = set(config["known"])

    def step(self) -> dict[str, Any]:
        """Wait a while for the next milestone, or the end."""
        config = self._config
        if self._process is None:
            job = Job(config["name"], tuple(config["words"]), Path(config["log"]))
            changes = on_a_node(config["gpus"], config["cpus"])
            try:
                self._process = process.start(job, changes, Path(config["here"]), last=True)
            except OSError as error:
                told = f"it could not be started on a node of the Ray cluster: {error!r}"
                return {"done": True, "exit_status": 1, "told": told}
        deadline = time.monotonic() + _LOOK
        while time.monotonic() < deadline:
            status = self._process.poll()
            for step, reading in readings(self._run, config["steps"]).items():
                saved = (self._run / "checkpoints" / f"step={step:05d}.ckpt").is_file()
                if step not in self._told and (saved or status is not None):  # the checkpoint comes last
                    self._told.add(step)
                    return {"milestone": step, **reading._asdict()}
            if status is not None:
                return {"done": True, "exit_status": status}
            time.sleep(_POLL)
        return {}

    def cleanup(self) -> None:
        """End the fit in order, if it still runs."""
        if self._process is not None:
            process.stop(self._process)


def reported(result: Mapping[str, Any]) -> MilestoneVerdict | None:
    """The verdict of a trial's report; None where it tells of none.

    Args:
        result: What `FitTrial.step` gave, with what Tune adds.
    """
    return (
        MilestoneVerdict(result["zone"], result["borderline"], result["position"])
        if "milestone" in result
        else None
    )


class HopelessStopper(tune.Stopper):  # type: ignore[misc]
    """Stops a fit where its model is cooked or broken, for later milestones of it are so as well.

    ASHA and other halving schedulers compare trials at one step and keep the best, which here would be
    wrong: who is farthest early on is first past dreaming. Of four fits of the pocket, 1.3e-4, 1.2e-4, 1.1e-4
    and 1e-4 at 200 steps (positions 40, 38, 36 and 35, all dreaming), halving keeps the first two; at 400
    steps the other two are those that clearly dream (43 and 42), farther than any was at 200. So no fit is
    stopped for the sake of another, only for what it is itself.
    """

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial's fit is stopped."""
        del trial_id
        reading = reported(result)
        return reading is not None and reading.hopeless

    def stop_all(self) -> bool:
        """Whether Ctrl-C, or another signal, asks the search to end."""
        return ends.waits()
