"""One fit of a corridor as a process of its own: started, watched through its log, stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.claim_files import CLAIM
from lightning_drift.common.ends import signal_of
from lightning_drift.common.errors import UserError
from lightning_drift.common.lock import LOCK_FILE, OWN, FolderLock
from lightning_drift.common.out_of_memory import sentence as out_of_memory
from lightning_drift.common.text import listed
from lightning_drift.corridor.plan import FIT, Plan, Row
from lightning_drift.corridor.read import ERROR_FILE, read
from lightning_drift.fit.bar_names import FIT_BAR, GRID_BAR
from lightning_drift.fit.runs import CHILD_RUN, checkpoint_steps

GRACE = 60.0
"""Seconds that an interrupted fit is given to end by itself; it may be writing a checkpoint."""


def unfinished(plan: Plan, row: Row) -> tuple[list[int], Path | None, int]:
    """What is left to do of a fit.

    Its files tell, whatever status it ended with. A step is finished if its pictures (or its reading) and a
    checkpoint of that step or a later one are on disk: checkpoints are written last.

    Returns:
        The steps left, the checkpoint to go on from (None: from the beginning) and its step.
    """
    folder = plan.run(row)
    run = (
        next((run for run in read(plan.folder, own=True, strict=True).runs if run.name == row.name), None)
        if folder.is_dir()
        else None
    )
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
    """A fit, from its newest usable checkpoint to the last step of the plan.

    Args:
        plan: The corridor.
        row: Its learning rate and seed.
        checkpoint: What to go on from; None for a fresh start.
        begin: That checkpoint's step.

    Attributes:
        device: Where it runs.
        process: Its process; None before `start`.
        unreached: Steps of the plan that its files lack; looked at when it has ended.
    """

    plan: Plan
    row: Row
    checkpoint: Path | None = None
    begin: int = 0
    device: str = field(default="", init=False)
    unreached: list[int] = field(default_factory=list, init=False)
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _lock: "IO[bytes] | None" = field(default=None, init=False)
    _offset: int = field(default=0, init=False)

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

    def start(self, device: str, threads: int | None = None) -> None:
        """Start the process; ``lock`` comes first.

        Args:
            device: What ``CUDA_VISIBLE_DEVICES`` becomes; ``cpu`` hides all GPUs.
            threads: CPU threads for a fit that shares the CPU with others; None leaves them alone.
        """
        self.device = device
        command = [sys.executable, "-m", "lightning_drift", "fit", "-c", str(self.plan.folder / FIT)]
        command += self.plan.options(self.row)
        if self.checkpoint is not None:
            command += [f"--ckpt_path={self.checkpoint}"]
        elif self.folder.exists():
            _remove_unsaved(self.folder)
        environment = {key: value for key, value in os.environ.items() if key != CHILD_RUN}
        environment["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        self.error_file.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            self._offset = log.tell()
            # A session of its own: Ctrl-C reaches the corridor alone, which then ends its fits in order.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_hear_interrupts if os.name == "posix" else None,
                pass_fds=() if self._lock is None else (self._lock.fileno(),),
            )

    def poll(self) -> int | None:
        """The exit status; None while it runs.

        Once it has ended, its files are looked at: where they lack a step, ``error_file`` says why.
        """
        assert self.process is not None, "start comes first"
        status = self.process.poll()
        if status is not None:
            self.release()
            self.unreached, _, reached = unfinished(self.plan, self.row)
            if status == 0 and not any(self.folder.glob("events.out.tfevents.*")):
                self.unreached = list(self.plan.steps)  # without its curves the page has nothing to show
            if self.unreached:
                with atomic_write(self.error_file) as file:
                    file.write(f"{self.failure(status, reached)}\n".encode())
        return status

    def interrupt(self) -> None:
        """Ask the process to stop as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def end(self, deadline: float) -> None:
        """Wait for an interrupted process, until a moment of ``time.monotonic()``; then kill it."""
        if self.process is not None:
            try:
                self.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.release()

    def output(self) -> str:
        """This attempt's part of the log, its last 64 KiB."""
        with suppress(OSError), open(self.log, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._offset, size - 2**16))
            text = log.read().decode("utf-8", "replace")
            return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "\n")
        return ""

    def step(self) -> int:
        """The optimizer step that the progress bar in its log shows."""
        steps = [int(done) for name, done, _ in self._bars() if name == FIT_BAR]
        return steps[-1] if steps else self.begin

    def doing(self) -> str:
        """What it does now, in a few words."""
        bars = self._bars()
        if not bars:
            return "starting"
        name, done, total = bars[-1]
        if name != FIT_BAR and done != total:
            return f"rendering the {name}, picture {done} of {total}"
        return f"step {self.step()} of {self.plan.steps[-1]}"

    def _bars(self) -> list[tuple[str, str, str]]:
        """The states of the progress bars in the log: name, count and total."""
        names = f"{re.escape(FIT_BAR)}|{re.escape(GRID_BAR)} \\d+"
        return re.findall(rf"({names}):[^\n]*?\| (\d+)/(\d+) \[", self.output())

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
        output = self.output()
        # An unfinished bar has no line end of its own.
        sentences = re.findall(r"(?m)(?:^|\])error: (.+)$", output)
        if sentences:
            return str(sentences[-1])
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        # Some libraries end a process by themselves where memory is full, with a line of theirs.
        if lines and (full := out_of_memory(RuntimeError(lines[-1]))):
            return f"The fit ended with status {status}: {full}"
        return f"The fit ended with status {status}: {lines[-1][:500] if lines else 'it said nothing'}"

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


def _hear_interrupts() -> None:
    """Let interrupts reach the fit: a corridor in the background of a shell ignores them, and so would it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


def _remove_unsaved(folder: Path) -> None:
    """Delete what a fit left that was stopped before its first checkpoint; the next one makes it all again.

    Only what a fit makes is deleted, file by file.

    Raises:
        UserError: There are checkpoints in it after all, or something else.
    """
    if any(folder.rglob("*.ckpt")):
        raise UserError(f"{folder} holds checkpoints that cannot be read; move it away and start again")
    lock = FolderLock(folder, "run")  # a fit that no corridor has started may write there
    cleared = False
    try:
        refuse_foreign(folder)
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
