"""Tasks over an engine that has room for two jobs, loses some, and ends them when a test says so."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lightning_drift.launchers.job import Job, Launcher, Running
from lightning_drift.launchers.queue import MOST_LOST, Answer, JobQueue


class Handle(Running):
    place = "the engine"

    def __init__(self, script: str) -> None:
        self.script, self.interrupted, self.ended_by = script, False, -1.0

    def poll(self) -> int | None:
        if self.script == "lost":
            self.lost = "its machine was lost"
            return 1
        return None if self.script == "runs" else int(self.script)

    def interrupt(self) -> None:
        self.interrupted = True

    def end(self, deadline: float) -> None:
        self.ended_by = deadline


class Engine(Launcher):
    def __init__(self, scripts: dict[str, list[str]], together: bool = False) -> None:
        self.scripts, self.together = scripts, together
        self.handles: list[Handle] = []
        self.handed: list[list[str]] = []

    def room(self) -> int:
        return 2 - sum(handle.poll() is None for handle in self.handles)

    def launch(self, jobs: Sequence[Job]) -> list[Running]:
        self.handed.append([job.name for job in jobs])
        new = [Handle(self.scripts[job.name].pop(0)) for job in jobs]
        self.handles += new
        return list(new)

    def describe(self) -> str:
        return "a test"


class Errand:
    def __init__(self, label: str, answers: Sequence[Answer] = (), gains: Sequence[int] = ()) -> None:
        self.label, self.answers, self.gains = label, list(answers), list(gains)
        self.at, self.released = 0, 0

    def prepare(self) -> Job | Answer:
        return self.answers.pop(0) if self.answers else Job(self.label, (), Path("log"))

    def release(self) -> None:
        self.released += 1

    def reached(self) -> int:
        self.at += self.gains.pop(0) if self.gains else 0
        return self.at


class Watched(JobQueue[Errand]):
    def __init__(self, tasks: Sequence[Errand], launcher: Launcher, again: Sequence[str] = ()) -> None:
        super().__init__(tasks, launcher)
        self.saw: list[str] = []
        self.again = list(again)

    def done(self, task: Errand) -> None:
        self.saw.append(f"{task.label} done")

    def busy(self, task: Errand) -> None:
        self.saw.append(f"{task.label} busy")

    def ended(self, task: Errand, running: Running, status: int) -> bool:
        self.saw.append(f"{task.label} {status}")
        if task.label in self.again:
            self.again.remove(task.label)
            return False
        return True


def test_tasks_run_two_at_a_time_in_their_order_and_what_is_busy_waits_for_the_others() -> None:
    tasks = [Errand("a", [Answer.BUSY]), Errand("b", [Answer.DONE]), Errand("c"), Errand("d"), Errand("e")]
    engine = Engine({name: ["0"] for name in "acde"})
    queue = Watched(tasks, engine)
    queue.run(poll=0.01)
    assert engine.handed == [["c"], ["d"], ["a"], ["e"]]
    assert queue.saw == ["a busy", "b done", "c 0", "d 0", "a 0", "e 0"]
    assert [task.released for task in tasks] == [1, 0, 1, 1, 1]


def test_an_engine_that_takes_arrays_is_handed_all_there_is_room_for_at_once() -> None:
    engine = Engine({name: ["0"] for name in "abc"}, together=True)
    Watched([Errand(name) for name in "abc"], engine).run(poll=0.01)
    assert engine.handed == [["a", "b"], ["c"]]


def test_a_lost_task_begins_again_as_long_as_it_comes_farther_and_a_few_times_without() -> None:
    stuck, moving = Errand("stuck"), Errand("moving", gains=[1] * 9)
    engine = Engine({"stuck": ["lost"] * 9, "moving": ["lost"] * 8 + ["0"]})
    queue = Watched([stuck, moving], engine)
    queue.run(poll=0.01)
    assert engine.handed.count(["stuck"]) == MOST_LOST + 1
    assert engine.handed.count(["moving"]) == 9
    assert queue.saw == ["stuck 1", "moving 0"]


def test_a_task_that_another_process_took_over_is_looked_at_again() -> None:
    engine = Engine({"a": ["2", "0"]})
    queue = Watched([Errand("a")], engine, again=["a"])
    queue.run(poll=0.01)
    assert queue.saw == ["a 2", "a 0"]


def test_whatever_ends_the_queue_interrupts_all_jobs_before_it_waits_for_the_first() -> None:
    class Fails(Watched):
        def show(self) -> None:
            raise OSError("the terminal is gone")

    tasks = [Errand("a"), Errand("b"), Errand("c")]
    engine = Engine({"a": ["runs"], "b": ["runs"]})
    began = time.monotonic()
    with pytest.raises(OSError, match="the terminal is gone"):
        Fails(tasks, engine).run(poll=0.01)
    assert [handle.interrupted for handle in engine.handles] == [True, True]
    assert all(handle.ended_by > began for handle in engine.handles)
    assert [task.released for task in tasks] == [1, 1, 0]
