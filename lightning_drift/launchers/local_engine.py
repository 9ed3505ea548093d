"""``--launcher local``: jobs on this machine."""

from dataclasses import dataclass
from pathlib import Path

from lightning_drift.launchers.job import Launcher
from lightning_drift.launchers.local import LocalLauncher, find_slots, refuse_invisible


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Args:
        devices: GPUs such as ``0,1``, for as many jobs side by side; ``cpu`` (``cpu,cpu`` for two that share
            it); ``auto`` for every visible GPU or else the CPU.
    """

    devices: str = "auto"

    def make(self, folder: Path, on_cpu: bool) -> Launcher:
        """The launcher.

        Raises:
            UserError: A device is not there.
        """
        del folder
        slots = find_slots(self.devices, "cpu" if on_cpu else "auto", "launcher.devices")
        refuse_invisible(slots, "launcher.devices")
        return LocalLauncher(slots)
