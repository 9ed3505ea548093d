"""One fit of a corridor as a process of its own: started, watched through its log, stopped."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lightning_drift.common.errors import UserError
from lightning_drift.corridor.plan import FIT, Plan
from lightning_drift.corridor.read import ERROR_FILE
from lightning_drift.fit.progress import FIT_BAR, GRID_BAR
from lightning_drift.fit.runs import CHILD_RUN, rate_name

GRACE = 60.0
"""Seconds that an interrupted fit is given to end by itself; it may be writing a checkpoint."""


@dataclass
class Fit:
    """A rate's fit, from its newest usable checkpoint to the last step of the plan.

    Args:
        plan: The corridor.
        rate: Its learning rate.
        checkpoint: What to go on from; None for a fresh start.
        begin: That checkpoint's step.
    """

    plan: Plan
    rate: float
    checkpoint: Path | None = None
    begin: int = 0
    device: str = field(default="", init=False)
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _lock: "IO[bytes] | None" = field(default=None, init=False)
    _offset: int = field(default=0, init=False)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.plan.run(self.rate)

    @property
    def log(self) -> Path:
        """The fit's output; beside the run folder, which must be empty when a fit begins."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def error_file(self) -> Path:
        """Why the fit failed, in a sentence; the file is there only then."""
        return self.folder.with_name(ERROR_FILE.format(run=rate_name(self.rate)))

    def start(self, device: str, threads: int | None = None) -> None:
        """Start the process; ``lock`` comes first.

        Args:
            device: What ``CUDA_VISIBLE_DEVICES`` becomes; ``cpu`` hides all GPUs.
            threads: CPU threads for a fit that shares the CPU with others; None leaves them alone.
        """
        self.device = device
        command = [sys.executable, "-m", "lightning_drift", "fit", "-c", str(self.plan.folder / FIT)]
        command += self.plan.options(self.rate)
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
        """The exit status; None while it runs. A failure leaves its sentence in ``error_file``."""
        assert self.process is not None, "start comes first"
        status = self.process.poll()
        if status is not None:
            self.release()
            if status:
                self.error_file.write_text(self.failure(status) + "\n", encoding="utf-8")
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

    def failure(self, status: int) -> str:
        """Why it failed, in a sentence."""
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
            hint = "; was the memory full?" if name == "SIGKILL" else ""
            return f"The fit was ended by {name} after step {self.step()}{hint}"
        output = self.output()
        # An unfinished bar has no line end of its own.
        sentences = re.findall(r"(?m)(?:^|\])error: (.+)$", output)
        if sentences:
            return str(sentences[-1])
        lines = [line.strip() for line in output.splitlines() if line.strip()]
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


def _remove_unsaved(folder: Path) -> None:
    """Delete what a fit left that was stopped before its first checkpoint; the next one makes it all again.

    Raises:
        UserError: There are checkpoints in it after all.
    """
    if any(folder.rglob("*.ckpt")):
        raise UserError(f"{folder} holds checkpoints that cannot be read; move it away and start again")
    shutil.rmtree(folder)
