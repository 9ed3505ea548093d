"""Jobs as processes of this machine, one at a time on each device."""

import os
import re
import subprocess
from collections.abc import Sequence

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.launchers import process
from lightning_drift.launchers.job import Job, Launcher, Running


def find_slots(devices: str, accelerator: str, option: str = "corridor.devices") -> list[str]:
    """Where jobs run side by side: one at a time on each slot.

    Args:
        devices: GPU numbers such as ``0,1``; ``cpu``, once for every job that is to share the CPU; or
            ``auto`` for every visible GPU, or the CPU if there is none.
        accelerator: The jobs' ``trainer.accelerator``.
        option: The option that the list was given by.

    Returns:
        What each slot's jobs find in ``CUDA_VISIBLE_DEVICES``, or ``cpu``.

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
            raise UserError(f"{devices!r} is not a list of devices; write 0,1 or cpu or auto", option)
        gpus = [slot for slot in slots if slot != "cpu"]
        if len(set(gpus)) < len(gpus):
            raise UserError(f"{devices} names a GPU twice; two fits would share its memory", option)
        return slots
    if accelerator == "cpu":
        return ["cpu"]
    return visible_gpus() or ["cpu"]


def visible_gpus() -> list[str]:
    """The GPUs that a job could use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [item.strip() for item in visible.split(",") if item.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def refuse_invisible(slots: list[str], option: str = "corridor.devices") -> None:
    """Refuse GPUs that are not there: a job that finds none would take the CPU without a word.

    Args:
        slots: As `find_slots` gives them.
        option: The option that they were given by.

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
            raise UserError(f"there is no GPU {shown(gpu)}; {there}", option)


def _uuids() -> list[str]:
    """The UUIDs of all GPUs and of their parts, as the driver's tool lists them."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"UUID: ([\w-]+)\)", listing)


def device_name(slot: str) -> str:
    """A slot in words."""
    return "the CPU" if slot == "cpu" else f"GPU {slot}"


class LocalRunning(Running):
    """A process of this machine.

    Attributes:
        process: The process.
        slot: The slot that it has.
    """

    def __init__(self, started: "subprocess.Popen[bytes]", slot: str) -> None:
        self.process, self.slot = started, slot
        self.place = device_name(slot)

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self.process.poll()

    def interrupt(self) -> None:
        """Ask it to stop as Ctrl-C does."""
        process.interrupt(self.process)

    def end(self, deadline: float) -> None:
        """Wait for it until a moment of ``time.monotonic()``; then kill it."""
        process.end(self.process, deadline)

    def kill(self) -> None:
        """Kill it at once, without waiting."""
        self.process.kill()


class LocalLauncher(Launcher):
    """Runs jobs on this machine: one at a time on each slot.

    Args:
        slots: Devices, see `find_slots`.
    """

    here = True

    def __init__(self, slots: list[str]) -> None:
        self.slots = slots
        self._running: list[LocalRunning] = []
        shared = slots.count("cpu")
        self._threads = max(1, (os.cpu_count() or 1) // shared) if shared > 1 else None

    def room(self) -> int:
        """How many slots are free."""
        return len(self._free())

    def _free(self) -> list[str]:
        self._running = [job for job in self._running if job.poll() is None]
        free = list(self.slots)
        for job in self._running:
            free.remove(job.slot)
        return free

    def launch(self, jobs: Sequence[Job]) -> list[Running]:
        """Start a process for each job, on the free slots in their order."""
        started: list[Running] = []
        for job, slot in zip(jobs, self._free(), strict=False):
            changes: dict[str, str | None] = {"CUDA_VISIBLE_DEVICES": "" if slot == "cpu" else slot}
            if slot == "cpu" and self._threads is not None and "OMP_NUM_THREADS" not in os.environ:
                changes["OMP_NUM_THREADS"] = str(self._threads)  # it shares the CPU with others
            running = LocalRunning(process.start(job, changes), slot)
            self._running.append(running)
            started.append(running)
        return started

    def describe(self) -> str:
        """The slots in words."""
        return ", ".join(map(device_name, self.slots))

    def places(self) -> int:
        """As many as there are slots."""
        return len(self.slots)
