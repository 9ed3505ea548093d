"""One fit of a corridor: what is left of it, the job that does it, watched through its log."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.claim_files import CLAIM
from lightning_drift.common.ends import signal_of
from lightning_drift.common.errors import UserError
from lightning_drift.common.lock import LOCK_FILE, OWN, FolderLock, is_held
from lightning_drift.common.text import listed
from lightning_drift.corridor.find_runs import ERROR_FILE, STOPPED_FILE
from lightning_drift.corridor.plan import Plan, Row
from lightning_drift.corridor.read import read_run
from lightning_drift.fit.bar_names import FIT_BAR, GRID_BAR
from lightning_drift.fit.runs import checkpoint_steps
from lightning_drift.launchers.job import Job
from lightning_drift.launchers.job_log import last_line, last_words, output, size
from lightning_drift.launchers.queue import Answer


def unfinished(plan: Plan, row: Row) -> tuple[list[int], Path | None, int]:
    """What is left to do of a fit.

    Its files tell, whatever status it ended with. A step is finished if its pictures (or its reading) and a
    checkpoint of that step or a later one are on disk: checkpoints are written last.

    Returns:
        The steps left, the checkpoint to go on from (None: from the beginning) and its step.
    """
    folder = plan.run(row)
    run = read_run(plan.folder, row, plan.fit) if folder.is_dir() else None
    reached = {step: path for path, step in checkpoint_steps(folder)[0].items()}
    if run is None or not reached:
        return list(plan.steps), None, 0
    renders = bool(run.prompts)
    end = run.stopped((plan.fit.get("clip_drift") or {}).get("stop_when"))
    left = [
        step
        for step in plan.steps
        if (step > max(reached) or (renders and step not in run.milestones)) and (end is None or step <= end)
    ]
    if not left:
        return [], None, 0
    # A step that was added later lies before checkpoints: the newest one ahead of it leads there again.
    begin = max((step for step in reached if step < left[0]), default=0)
    return left, reached.get(begin), begin


@dataclass
class Fit:
    """A fit of a corridor, from its newest usable checkpoint to the last step of the plan: a task of a queue.

    Args:
        plan: The corridor.
        row: Its learning rate and seed.
        begin: The step that its present job goes on from; 0 for a fresh start.
        handed_on: Its job keeps the lock's file open, as a process of this computer does. Elsewhere the claim
            of the run says who writes it, and a thousand open files would be too many.

    Attributes:
        unreached: Steps of the plan that its files lack; looked at when its job has ended.
    """

    plan: Plan
    row: Row
    begin: int = 0
    handed_on: bool = True
    unreached: list[int] = field(default_factory=list, init=False)
    _lock: "IO[bytes] | None" = field(default=None, init=False)
    _offset: int = field(default=0, init=False)

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.row.label

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.plan.run(self.row)

    @property
    def log(self) -> Path:
        """The fit's output; beside the run folder, which must be empty when a fit begins."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def error_file(self) -> Path:
        """Why the fit failed, in a sentence; the file is there only then."""
        return self.folder.with_name(ERROR_FILE.format(run=self.row.name))

    @property
    def stopped_file(self) -> Path:
        """Why the fit was stopped on purpose, in a sentence; the file is there only then."""
        return self.folder.with_name(STOPPED_FILE.format(run=self.row.name))

    def prepare(self) -> Job | Answer:
        """The job that does what is left of it.

        Raises:
            UserError: It is to be begun afresh, and its folder holds what no fit has made.
        """
        if not self.lock():
            return Answer.BUSY
        if is_held(self.folder):  # by a fit of another computer, or one that no corridor has started
            self.release()
            return Answer.BUSY
        try:
            # Another process may have done some of it since this corridor began.
            left, checkpoint, self.begin = unfinished(self.plan, self.row)
            if not left:
                self.release()
                return Answer.DONE
            if checkpoint is None and self.folder.exists():
                refuse_unreadable(self.folder)
        except UserError:
            self.release()
            raise
        if not self.handed_on:
            self.release()
        return self.job()

    def job(self) -> Job:
        """The command that does what is left; `prepare` comes first."""
        for file in (self.error_file, self.stopped_file):
            file.unlink(missing_ok=True)
        self._offset = size(self.log)
        words = ("corridor", "fit", str(self.plan.folder), self.row.name)
        name = f"{self.plan.subject}-{self.plan.name}-{self.row.name}"
        return Job(name, words, self.log, () if self._lock is None else (self._lock.fileno(),))

    def reached(self) -> int:
        """The step of its newest checkpoint."""
        return unfinished(self.plan, self.row)[2]

    def ended(self, told: str, status: int) -> bool:
        """Look at its files once its job has ended: where they lack a step, ``error_file`` says why.

        Args:
            told: What an engine says of the end; empty for nothing.
            status: The job's exit status.

        Returns:
            Whether it is over; False where another process goes on with it.
        """
        self.unreached, _, reached = unfinished(self.plan, self.row)
        if status == 0 and not any(self.folder.glob("events.out.tfevents.*")):
            self.unreached = list(self.plan.steps)  # without its curves the page has nothing to show
        if self.unreached and is_held(self.folder):
            return False
        if self.unreached:
            with atomic_write(self.error_file) as file:
                file.write(f"{told or self.failure(status, reached)}\n".encode())
        return True

    def output(self) -> str:
        """This attempt's part of the log, its last 64 KiB."""
        return output(self.log, self._offset)

    def step(self) -> int:
        """The optimizer step that the progress bar in its log shows."""
        steps = [int(done) for name, done, _ in _bars(self.output()) if name == FIT_BAR]
        return steps[-1] if steps else self.begin

    def doing(self) -> str:
        """What it does now, in a few words."""
        output = self.output()
        if not output:
            return "waiting for its turn"
        bars = _bars(output)
        if not bars:
            return "starting"
        name, done, total = bars[-1]
        if name != FIT_BAR and done != total:
            return f"rendering the {name}, picture {done} of {total}"
        return f"step {self.step()} of {self.plan.steps[-1]}"

    def failure(self, status: int, reached: int = 0) -> str:
        """Why it ended before its last step, in a sentence.

        Args:
            status: Its exit status.
            reached: The step of its newest checkpoint; its log may show a later one.
        """
        at = f"at step {max(self.step(), reached)} of {self.plan.steps[-1]}"
        if name := signal_of(status):
            hint = "; was the memory full?" if name == "SIGKILL" else ""
            return f"The fit was stopped by {name} {at}{hint}"
        if status == 0:
            return f"The fit ended {at}, with nothing wrong to tell"
        return last_words(self.output()) or f"The fit ended with status {status}: {last_line(self.output())}"

    # -- one fit per folder -----------------------------------------------------------------------------

    def lock(self) -> bool:
        """Hold a lock that the fit inherits, so that it lasts as long as the fit, whatever ends the corridor.

        Returns:
            False if a fit of an earlier corridor, itself killed, still runs in this folder.
        """
        if os.name != "posix":
            return True
        import fcntl

        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder.with_name(f"{self.folder.name}.lock"), "ab")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Let go of the lock; a process that has inherited it still holds it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _bars(output: str) -> list[tuple[str, str, str]]:
    """The states of the progress bars in a log: name, count and total."""
    names = f"{re.escape(FIT_BAR)}|{re.escape(GRID_BAR)} \\d+"
    return re.findall(rf"({names}):[^\n]*?\| (\d+)/(\d+) \[", output)


# What a fit writes into its run folder before its first checkpoint.
_MADE = (
    LOCK_FILE,
    f"{CLAIM}/*",
    f"{CLAIM}-*.partial/*",
    "events.out.tfevents.*",
    "hparams.yaml",
    "config.yaml",
    "config.resume-*.yaml",
    "instance_images.png",
    "checkpoints/*.ckpt",  # none that can be read
    "grids/*.png",
    "grids/step=*/*.png",
    "drift/step=*.json",
    "validate/step=*/*.png",
    "validate/step=*/*.json",
    "validate/step=*/step=*/*.png",
    "*.partial",
    "**/*.partial",
)


def refuse_foreign(folder: Path) -> None:
    """Refuse a run folder with files that no fit has made: a fresh fit cannot take it over.

    Raises:
        UserError: There are such files.
    """
    made = {path for pattern in _MADE for path in folder.glob(pattern)}
    foreign = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not (path.is_dir() or path in made)
    ]
    if foreign:
        raise UserError(
            f"{folder} is to be fitted afresh and holds what no fit has made: {listed(foreign)}. Move that "
            "away and start again"
        )


def refuse_unreadable(folder: Path) -> None:
    """Refuse a folder to be fitted afresh that holds more than a fit leaves before its first checkpoint.

    Raises:
        UserError: There are checkpoints in it after all, or something that no fit has made.
    """
    if any(folder.rglob("*.ckpt")):
        raise UserError(f"{folder} holds checkpoints that cannot be read; move it away and start again")
    refuse_foreign(folder)


def remove_unsaved(folder: Path) -> None:
    """Delete what a fit left that was stopped before its first checkpoint; the next one makes it all again.

    Only what a fit makes is deleted, file by file.

    Raises:
        UserError: As `refuse_unreadable`, or another process writes into it.
    """
    refuse_unreadable(folder)
    lock = FolderLock(folder, "run")  # a fit that no corridor has started may write there
    cleared = False
    try:
        refuse_unreadable(folder)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.relative_to(folder).parts[0] in OWN:
                continue
            lock.check()
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        cleared = True
    finally:
        lock.release(leave=not cleared)
    folder.rmdir()
