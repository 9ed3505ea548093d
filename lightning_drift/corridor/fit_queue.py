"""The fits of a corridor over a launcher: what a person sees of them."""

import shutil
import sys
import time
from collections.abc import Callable

from lightning_drift.common.errors import notice
from lightning_drift.common.lock import holder
from lightning_drift.common.seldom import Seldom
from lightning_drift.common.text import duration, printable
from lightning_drift.corridor.fits import Fit, refuse_foreign, unfinished
from lightning_drift.corridor.plan import Plan, Row, read_plan
from lightning_drift.corridor.read import read_run
from lightning_drift.corridor.recorded_run import CorridorCell
from lightning_drift.launchers.job import Launcher, Running
from lightning_drift.launchers.queue import JobQueue


class FitQueue(JobQueue[Fit]):
    """Runs what a corridor lacks.

    Args:
        plan: The corridor.
        rows: The fits to run.
        launcher: Where they run.
        after: Renews the page once a fit has ended: the first time at once, then as `Seldom` has it.
    """

    def __init__(self, plan: Plan, rows: list[Row], launcher: Launcher, after: Callable[[], None]) -> None:
        super().__init__([], launcher)
        self.plan, self._after = plan, Seldom(after)
        self.failed: list[Row] = []
        self._told: set[tuple[Row, int]] = set()
        self._strays: set[Row] = set()
        self._steps_done = 0
        self._began = time.monotonic()
        for row in rows:
            left, checkpoint, begin = unfinished(plan, row)
            self._told |= {(row, step) for step in plan.steps if step not in left}
            if left:
                self.waiting.append(Fit(plan, row, begin, launcher.here))
                if checkpoint is None and plan.run(row).is_dir():
                    refuse_foreign(plan.run(row))
            if len(left) < len(plan.steps):
                done = ", ".join(str(step) for step in plan.steps if step not in left)
                say(f"{row.label}: {done} {'is' if ',' not in done else 'are'} finished")
        self._steps_to_do = sum(plan.steps[-1] - fit.begin for fit in self.waiting)

    def began(self, task: Fit, running: Running) -> None:
        """Say where a fit runs."""
        where = f" from step {task.begin}" if task.begin else ""
        say(f"{task.label}: fitting{where} on {running.place}, log in {task.log}")

    def looked(self, task: Fit) -> None:
        """One line for every cell, once its checkpoint is there."""
        due = [
            step
            for step in self.plan.steps
            if (task.row, step) not in self._told
            and (task.folder / "checkpoints" / f"step={step:05d}.ckpt").is_file()
        ]
        if not due:
            return
        read_plan(self.plan.folder)  # were it damaged, every fit that is still to begin would fail by it
        run, left = read_run(self.plan.folder, task.row, self.plan.fit), self._left()
        for step in due:
            self._told.add((task.row, step))
            cell = run.cell(step)
            say(f"{task.label} x {step}: {describe(cell)}{f' ({left})' if left else ''}")

    def done(self, task: Fit) -> None:
        """Another process has finished it meanwhile."""
        self.looked(task)
        self._after.ask()

    def busy(self, task: Fit) -> None:
        """Say once that a fit is somebody else's for now."""
        if task.row not in self._strays:
            self._strays.add(task.row)
            who = holder(task.folder)
            notice(
                f"{task.folder}: the fit of an earlier corridor still runs there"
                + (f" ({who})" if who else "")
                + "; waiting for it"
            )

    def ended(self, task: Fit, running: Running, status: int) -> bool:
        """Tell how a fit has ended."""
        if not task.ended(running.lost or running.told, status):
            return False
        self._steps_done += self.plan.steps[-1] - task.begin
        if task.unreached:
            self.failed.append(task.row)
            said = task.error_file.read_text(encoding="utf-8").strip()
            state = "stopped" if _by_signal(status) else "failed"
            say(f"{task.label}: {state}. {said}")
        elif status:
            say(f"{task.label}: complete, though it ended with status {status}; see {task.log}")
        self._after.ask()
        return True

    def stopping(self) -> None:
        """Say what Ctrl-C does."""
        _clear()
        if self.running:
            notice("stopping; the fits end where they are, and go on from their last checkpoints")

    def reached(self) -> str:
        """How many of the plan's checkpoints are there, in words."""
        cells = [(row, step) for row in self.plan.rows for step in self.plan.steps]
        done = sum(cell in self._told for cell in cells)
        return f"{done} of {len(cells)} checkpoints done"

    def show(self) -> None:
        """A line that is written over: what runs now, and how long the rest may take."""
        self._after.catch_up()
        if not self.running or not sys.stderr.isatty():
            return
        shown = self.running[:8]  # more than a terminal is wide
        now = "; ".join(f"{fit.label} {fit.doing()}" for fit, _ in shown)
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r\x1b[K" + f"{self._left() or '…'}  {now}"[:width])
        sys.stderr.flush()

    def _left(self) -> str:
        """How long the rest takes at the pace so far; empty where that is not known."""
        done = self._steps_done + sum(max(0, fit.step() - fit.begin) for fit, _ in self.running)
        elapsed, rest = time.monotonic() - self._began, self._steps_to_do - done
        return f"about {duration(elapsed / done * rest)} left" if done and rest > 0 else ""


def describe(cell: CorridorCell) -> str:
    """A cell in a few words."""
    if cell.zone is None:
        return cell.state
    border = f" (borderline {cell.borderline})" if cell.borderline else ""
    position = "" if cell.position is None else f", {cell.position:.0f} of 100"
    return f"{cell.zone}{border}{position}"


def _by_signal(status: int) -> bool:
    return status < 0 or status > 128


def say(line: str) -> None:
    """Print a line, in place of the one that is written over."""
    _clear()
    print(printable(line), flush=True)


def _clear() -> None:
    """Wipe the line that is written over."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
