"""Memory that is really full: a limit on a command's process, and a batch that asks for all there is."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from lightning.pytorch import Callback
from torch.nn.modules.module import register_module_forward_pre_hook


class MemoryLimit(Callback):
    """Lets the process of a command take so much more memory than it has at a moment, and no more.

    Args:
        mib: How much more, in MiB.
        at: The moment: the name of a callback's hook.
        step: The optimizer step of that moment.
        until: The name of the hook that lifts the limit again.
    """

    def __init__(self, mib: int, at: str, step: int = 0, until: str = "") -> None:
        self.mib, self.step = mib, step
        setattr(self, at, self._limit)
        if until:
            setattr(self, until, self._lift)

    def _limit(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            (taken,) = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
            limit = int(taken) * 2**10 + self.mib * 2**20
            resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))

    def _lift(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def full_above(pictures: int) -> Iterator[list[int]]:
    """Within, a UNet that is given more pictures than this asks the CPU's allocator for what it must refuse.

    Yields:
        How many pictures each call was given.
    """
    given: list[int] = []

    def ask(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, UNet2DConditionModel) and arguments[0].device.type == "cpu":
            given.append(len(arguments[0]))
            if given[-1] > pictures:
                torch.empty(2**58)

    hook = register_module_forward_pre_hook(ask)
    try:
        yield given
    finally:
        hook.remove()
