"""The pictures of a ``predict`` run as shares, each a job."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lightning_drift.common.ends import signal_of
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.numbers import whole
from lightning_drift.common.text import printable
from lightning_drift.launchers.job import Job, Launcher, Running
from lightning_drift.launchers.job_log import last_line, last_words, output, size
from lightning_drift.launchers.options import Engine
from lightning_drift.launchers.queue import Answer, JobQueue

FOLDER = "shares"
"""In the folder of the pictures: the logs of the shares, and the launcher's own files."""
MOST_SHARES = 10_000


class ShareTask:
    """A share of the pictures: a task of a queue.

    Args:
        words: The command without its launcher.
        number: Which share, from 1.
        count: Of how many.
        folder: Where the pictures are written.
    """

    def __init__(self, words: Sequence[str], number: int, count: int, folder: Path) -> None:
        self.label = f"share {number} of {count}"
        self.log = folder / FOLDER / f"share_{number:0{len(str(count))}d}_of_{count}.log"
        self._words = (*words, f"--data.share={number}/{count}")
        self._folder = folder
        self._offset = 0
        self._job = f"{folder.resolve().name}-{number}-of-{count}"

    def prepare(self) -> Job | Answer:
        """Its command; what is made already it passes over by itself."""
        self._offset = size(self.log)
        return Job(self._job, self._words, self.log)

    def release(self) -> None:
        """It holds nothing."""

    def reached(self) -> int:
        """How many files there are in the folder of the pictures and below it."""
        count = 0
        with suppress(OSError):
            for _, _, files in os.walk(self._folder):
                count += len(files)
        return count

    def failure(self, running: Running, status: int) -> str:
        """Why it ended before it was done, in a sentence; empty where it is done."""
        if status == 0:
            return ""
        if name := signal_of(status):
            return f"stopped by {name}"
        said = output(self.log, self._offset)
        ended = f"ended with status {status}: {last_line(said)}"
        return running.lost or running.told or last_words(said) or ended


class ShareQueue(JobQueue[ShareTask]):
    """Runs shares, and says how each ends."""

    def __init__(self, tasks: Sequence[ShareTask], launcher: Launcher) -> None:
        super().__init__(tasks, launcher)
        self.count = len(self.waiting)
        self.finished = 0
        self.failed: list[str] = []

    def began(self, task: ShareTask, running: Running) -> None:
        """Say where a share runs."""
        print(printable(f"{task.label} on {running.place}, log in {task.log}"), flush=True)

    def ended(self, task: ShareTask, running: Running, status: int) -> bool:
        """Tell how a share has ended."""
        if reason := task.failure(running, status):
            self.failed.append(f"{task.label}: {reason}")
            notice(self.failed[-1])
        else:
            self.finished += 1
            print(printable(f"{task.label} is done ({self.finished} of {self.count})"), flush=True)
        return True

    def stopping(self) -> None:
        """Say what Ctrl-C does."""
        if self.running:
            notice("stopping; the shares end where they are, and go on from there")


def share_count(asked: object, launcher: Launcher) -> int:
    """How many shares: as many as were asked for, or as many as run side by side.

    Raises:
        UserError: It is no such number, or it is not known how many run side by side.
    """
    if asked is not None:
        text = str(asked)
        return whole(int(text) if text.isdecimal() else asked, "launcher.shares", 1, MOST_SHARES)
    places = launcher.places()
    if places is None:
        raise UserError("say how many shares this is divided into, such as 16", "launcher.shares")
    return places


def run_shares(engine: Engine, words: Sequence[str], folder: Path, asked: object, on_cpu: bool) -> None:
    """Make the pictures of a command in shares, and come back when all are there.

    Args:
        engine: The launcher that was asked for.
        words: The command, without the launcher.
        folder: Where the pictures are written; all machines share it.
        asked: The number of shares; None for as many as run side by side.
        on_cpu: No share uses a GPU.

    Raises:
        UserError: A share failed; the others were finished first.
        Ended: By a signal, after all shares were stopped in order.
    """
    sys.stdout.flush()
    launcher = engine.make(folder / FOLDER, on_cpu)
    try:
        count = share_count(asked, launcher)
        tasks = [ShareTask(words, number, count, folder) for number in range(1, count + 1)]
        queue = ShareQueue(tasks, launcher)
        queue.run()
    finally:
        launcher.close()
    if queue.failed:
        number = "one share" if len(queue.failed) == 1 else f"{len(queue.failed)} shares"
        raise UserError(f"{number} of {count} failed; the same command goes on:", details=queue.failed)


def describe_shares(engine: Engine, folder: Path, asked: object, on_cpu: bool) -> str:
    """What `run_shares` would do, in a line.

    Raises:
        UserError: The engine is not there, or the number of shares is none.
    """
    launcher = engine.make(folder / FOLDER, on_cpu)
    try:
        return f"shares   {share_count(asked, launcher)}, on {launcher.describe()}"
    finally:
        launcher.close()
