"""Run a corridor: one fit per learning rate and seed, as many side by side as there are devices."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

from lightning_drift.common.ends import before_dying, held
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.numbers import shown
from lightning_drift.common.text import duration, printable
from lightning_drift.corridor.fits import GRACE, Fit, refuse_foreign, unfinished
from lightning_drift.corridor.plan import Plan, Row
from lightning_drift.corridor.read import CorridorCell, read


def find_slots(devices: str, accelerator: str) -> list[str]:
    """Where fits run side by side: one at a time on each slot.

    Args:
        devices: GPU numbers such as ``0,1``; ``cpu``, once for every fit that is to share the CPU; or
            ``auto`` for every visible GPU, or the CPU if there is none.
        accelerator: The fit's ``trainer.accelerator``.

    Returns:
        What each slot's fits find in ``CUDA_VISIBLE_DEVICES``, or ``cpu``.

    Raises:
        UserError: The list is not one of devices.

    >>> find_slots("cpu,cpu", "auto")
    ['cpu', 'cpu']
    """
    if devices != "auto":
        # 00 is GPU 0; what has more digits is none, and is refused below.
        words = [item.strip() for item in devices.split(",")]
        slots = [str(int(word)) if word.isdecimal() and len(word) < 5 else word for word in words]
        if not all(slot == "cpu" or slot.isdecimal() or slot.startswith(("GPU-", "MIG-")) for slot in slots):
            raise UserError(
                f"{devices!r} is not a list of devices; write 0,1 or cpu or auto", "corridor.devices"
            )
        gpus = [slot for slot in slots if slot != "cpu"]
        if len(set(gpus)) < len(gpus):
            raise UserError(
                f"{devices} names a GPU twice; two fits would share its memory", "corridor.devices"
            )
        return slots
    if accelerator == "cpu":
        return ["cpu"]
    return visible_gpus() or ["cpu"]


def visible_gpus() -> list[str]:
    """The GPUs that a fit could use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [item.strip() for item in visible.split(",") if item.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def refuse_invisible(slots: list[str]) -> None:
    """Refuse GPUs that are not there: a fit that finds none would take the CPU without a word.

    Args:
        slots: As `find_slots` gives them.

    Raises:
        UserError: A GPU is not visible; the message names those that are.
    """
    gpus = [slot for slot in slots if slot != "cpu"]
    visible = visible_gpus() if gpus else []
    known = [*visible, *(_uuids() if any(not gpu.isdecimal() for gpu in gpus) and visible else [])]
    for gpu in gpus:
        # A UUID may be cut short as long as it is clear.
        if gpu not in visible and (gpu.isdecimal() or not any(name.startswith(gpu) for name in known)):
            there = f"visible are {', '.join(visible)}" if visible else "none is visible; write cpu"
            raise UserError(f"there is no GPU {shown(gpu)}; {there}", "corridor.devices")


def _uuids() -> list[str]:
    """The UUIDs of all GPUs and of their parts, as the driver's tool lists them."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"UUID: ([\w-]+)\)", listing)


class FitQueue:
    """Runs what a corridor lacks.

    Args:
        plan: The corridor.
        rows: The fits to run.
        slots: Devices, see ``find_slots``.
        after: Called after each fit that has ended, to renew the page.
    """

    def __init__(self, plan: Plan, rows: list[Row], slots: list[str], after: Callable[[], None]) -> None:
        self.plan, self.slots, self.after = plan, slots, after
        self.waiting: list[Fit] = []
        self.running: list[Fit] = []
        self.failed: list[Row] = []
        self._told: set[tuple[Row, int]] = set()
        self._strays: set[Row] = set()
        self._steps_done = 0
        self._began = time.monotonic()
        shared = slots.count("cpu")
        self._threads = max(1, (os.cpu_count() or 1) // shared) if shared > 1 else None
        for row in rows:
            left, checkpoint, begin = unfinished(plan, row)
            self._told |= {(row, step) for step in plan.steps if step not in left}
            if left:
                self.waiting.append(Fit(plan, row, checkpoint, begin))
                if checkpoint is None and plan.run(row).is_dir():
                    refuse_foreign(plan.run(row))
            if len(left) < len(plan.steps):
                done = ", ".join(str(step) for step in plan.steps if step not in left)
                _say(f"{row.label}: {done} {'is' if ',' not in done else 'are'} finished")
        self._steps_to_do = sum(plan.steps[-1] - fit.begin for fit in self.waiting)

    def run(self, poll: float = 1.0) -> None:
        """Run every fit that is left.

        Args:
            poll: Seconds between two looks at the fits.

        Raises:
            BaseException: Whatever ended it (an interrupt, an error), after the fits that ran were stopped in
                order: each has a session of its own and would go on alone.
        """
        try:
            while self.waiting or self.running:
                self._fill()
                time.sleep(poll)
                for fit in list(self.running):
                    status = fit.poll()
                    self._tell_cells(fit)
                    if status is not None:
                        self._ended(fit, status)
                self._show()
        except BaseException:
            self._stop()
            raise

    def _fill(self) -> None:
        """Give every free slot a fit."""
        free = list(self.slots)
        for fit in self.running:
            free.remove(fit.device)
        for fit in list(self.waiting):
            if not free:
                return
            if not fit.lock():
                if fit.row not in self._strays:
                    self._strays.add(fit.row)
                    notice(f"{fit.folder}: the fit of an earlier corridor still runs there; waiting for it")
                continue
            self.waiting.remove(fit)
            # Another process may have done some of it since this corridor began.
            left, fit.checkpoint, fit.begin = unfinished(self.plan, fit.row)
            if not left:
                fit.release()
                self._tell_cells(fit)
                self.after()
                continue
            device = free.pop(0)
            self.running.append(fit)
            with held():  # a process that is started is known
                fit.start(device, self._threads if device == "cpu" else None)
            where = f" from step {fit.begin}" if fit.begin else ""
            _say(f"{fit.row.label}: fitting{where} on {_device_name(device)}, log in {fit.log}")

    def _ended(self, fit: Fit, status: int) -> None:
        self.running.remove(fit)
        self._steps_done += self.plan.steps[-1] - fit.begin
        if fit.unreached:
            self.failed.append(fit.row)
            said = fit.error_file.read_text(encoding="utf-8").strip()
            state = "stopped" if _by_signal(status) else "failed"
            _say(f"{fit.row.label}: {state}. {said}")
        elif status:
            _say(f"{fit.row.label}: complete, though it ended with status {status}; see {fit.log}")
        self.after()

    def _stop(self) -> None:
        """Interrupt all fits at once, then wait for each; a second interrupt kills them."""
        _clear()
        if self.running:
            notice("stopping; the fits end where they are, and go on from their last checkpoints")
        for fit in self.running:
            fit.interrupt()
        deadline = time.monotonic() + GRACE
        try:
            with before_dying(self._kill):
                for fit in self.running:
                    fit.end(deadline)
        except BaseException:
            for fit in self.running:
                fit.end(time.monotonic())
            raise

    def _kill(self) -> None:
        for fit in self.running:
            if fit.process is not None:
                fit.process.kill()

    def reached(self) -> str:
        """How many of the plan's checkpoints are there, in words."""
        cells = [(row, step) for row in self.plan.rows for step in self.plan.steps]
        done = sum(cell in self._told for cell in cells)
        return f"{done} of {len(cells)} checkpoints done"

    # -- what a person sees -----------------------------------------------------------------------------

    def _tell_cells(self, fit: Fit) -> None:
        """One line for every cell, once its checkpoint is there."""
        due = [
            step
            for step in self.plan.steps
            if (fit.row, step) not in self._told
            and (fit.folder / "checkpoints" / f"step={step:05d}.ckpt").is_file()
        ]
        if not due:
            return
        cells, left = read(self.plan.folder, own=True, strict=True).cells, self._left()
        for step in due:
            self._told.add((fit.row, step))
            cell = cells[fit.folder.name, step]
            _say(f"{fit.row.label} x {step}: {describe(cell)}{f' ({left})' if left else ''}")

    def _show(self) -> None:
        """A line that is written over: what runs now, and how long the rest may take."""
        if not self.running or not sys.stderr.isatty():
            return
        now = "; ".join(f"{fit.row.label} {fit.doing()}" for fit in self.running)
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r\x1b[K" + f"{self._left() or '…'}  {now}"[:width])
        sys.stderr.flush()

    def _left(self) -> str:
        """How long the rest takes at the pace so far; empty where that is not known."""
        done = self._steps_done + sum(max(0, fit.step() - fit.begin) for fit in self.running)
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


def _device_name(device: str) -> str:
    return "the CPU" if device == "cpu" else f"GPU {device}"


def _say(line: str) -> None:
    _clear()
    print(printable(line), flush=True)


def _clear() -> None:
    """Wipe the line that is written over."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
