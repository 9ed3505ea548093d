"""Tasks over a launcher: begun where there is room, watched, begun again where an engine loses them."""

import time
from collections.abc import Sequence
from enum import Enum
from typing import Generic, Protocol, TypeVar

from lightning_drift.common.ends import before_dying, held
from lightning_drift.common.errors import notice
from lightning_drift.launchers.job import Job, Launcher, Running
from lightning_drift.launchers.process import GRACE

MOST_LOST = 3
"""How often a task is started again without having come farther, when an engine loses it."""


class Answer(Enum):
    """Why a task has no job now."""

    DONE = "nothing of it is left to do"
    BUSY = "another process works on it"


class Task(Protocol):
    """Something to be done by one job after another, until nothing of it is left."""

    @property
    def label(self) -> str:
        """Its name for people."""

    def prepare(self) -> Job | Answer:
        """What to run now."""

    def release(self) -> None:
        """Let go of what `prepare` took hold of, once its job has ended."""

    def reached(self) -> int:
        """How far it has come, told by its files: a number that grows."""


_Task = TypeVar("_Task", bound=Task)


class JobQueue(Generic[_Task]):
    """Runs tasks on a launcher until nothing is left of any.

    Subclasses say what they see: `began`, `looked`, `done`, `ended`, `busy`, `show`.

    Args:
        tasks: The tasks, in the order in which they are begun.
        launcher: Where they run.
    """

    def __init__(self, tasks: Sequence[_Task], launcher: Launcher) -> None:
        self.launcher = launcher
        self.waiting: list[_Task] = list(tasks)
        self.running: list[tuple[_Task, Running]] = []
        self._lost: dict[int, tuple[int, int]] = {}  # by task: how far it was, and how often lost there

    def run(self, poll: float = 1.0) -> None:
        """Run every task that is left.

        Args:
            poll: Seconds between two looks at the jobs, at least; where a look takes long, more.

        Raises:
            BaseException: Whatever ended it (an interrupt, an error), after the jobs that ran were stopped in
                order.
        """
        try:
            pause = poll
            while self.waiting or self.running:
                self._fill()
                time.sleep(pause)
                began = time.monotonic()
                self._look()
                self.show()
                pause = max(poll, 10 * (time.monotonic() - began))
        except BaseException:
            self._stop()
            raise

    def _fill(self) -> None:
        """Hand over as many tasks as there is room for."""
        room = self.launcher.room()
        ready: list[tuple[_Task, Job]] = []
        for task in list(self.waiting):
            if room is not None and len(ready) >= room:
                break
            job = task.prepare()
            if job is Answer.BUSY:
                self.busy(task)
                continue
            self.waiting.remove(task)
            if job is Answer.DONE:
                self.done(task)
            elif isinstance(job, Job):
                ready.append((task, job))
                if not self.launcher.together:
                    self._launch(ready)
                    ready, room = [], None if room is None else room - 1
        self._launch(ready)

    def _launch(self, ready: Sequence[tuple[_Task, Job]]) -> None:
        if not ready:
            return
        begun: list[tuple[_Task, Running]] = []
        with held():  # a job that is started is known
            known = [(task, self.launcher.found(job)) for task, job in ready]
            begun += [(task, running) for task, running in known if running is not None]
            new = [pair for pair, (_, running) in zip(ready, known, strict=True) if running is None]
            started = self.launcher.launch([job for _, job in new]) if new else []
            begun += [(task, running) for (task, _), running in zip(new, started, strict=True)]
            self.running += begun
        for task, running in begun:
            self.began(task, running)

    def _look(self) -> None:
        for task, running in list(self.running):
            status = running.poll()
            self.looked(task)
            if status is None:
                continue
            self.running.remove((task, running))
            task.release()
            if running.lost and self._again(task):
                notice(f"{task.label}: {running.lost}; it goes on from where it was")
                self.waiting.append(task)
            elif not self.ended(task, running, status):
                self.waiting.append(task)

    def _again(self, task: _Task) -> bool:
        """Whether a task that was lost is worth another start."""
        reached = task.reached()
        before, count = self._lost.get(id(task), (reached, 0))
        count = count + 1 if reached <= before else 1
        self._lost[id(task)] = reached, count
        return count <= MOST_LOST

    def _stop(self) -> None:
        """Interrupt all jobs at once, then wait for each; a second interrupt kills them."""
        self.stopping()
        for _, running in self.running:
            running.interrupt()
        deadline = time.monotonic() + GRACE
        try:
            with before_dying(self._kill):
                for _, running in self.running:
                    running.end(deadline)
        except BaseException:
            for _, running in self.running:
                running.end(time.monotonic())
            raise
        finally:
            for task, _ in self.running:
                task.release()

    def _kill(self) -> None:
        for _, running in self.running:
            running.kill()

    # -- what a person sees -----------------------------------------------------------------------------

    def began(self, task: _Task, running: Running) -> None:
        """A task's job was handed over."""

    def looked(self, task: _Task) -> None:
        """A running task is looked at."""

    def done(self, task: _Task) -> None:
        """A task that waited has nothing left to do."""

    def busy(self, task: _Task) -> None:
        """A task waits for another process to end."""

    def ended(self, task: _Task, running: Running, status: int) -> bool:
        """A task's job has ended.

        Returns:
            Whether the task is over; else it is begun again.
        """
        del running, status
        return True

    def show(self) -> None:
        """Every job was looked at."""

    def stopping(self) -> None:
        """All jobs are about to be stopped."""
