"""Live bytes of tensors by what they are for, operation by operation."""

import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lightning_drift.forecast.remembered import Remembered, tensors_of

ROUNDING = 512
"""CUDA's allocator hands out multiples of so many bytes."""

PARTS = ("weights", "remainders", "gradients", "optimizer state", "casts", "activations", "other")
"""What memory is for; a forecast's sums are by these names."""

_CAST = torch.ops.aten._to_copy.default
_IDLE = {
    *(
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.empty_strided.default,
    ),
    *(
        torch.ops.aten.detach.default,
        torch.ops.aten.new_empty.default,
        torch.ops.aten.new_empty_strided.default,
    ),
}
"""Operations that compute nothing."""
_UPDATES = {"bitsandbytes::optimizer_update_8bit_blockwise", "bitsandbytes::optimizer_update_32bit"}
"""Adam's steps, where bitsandbytes takes them; on a CPU `fit/cpu_update` does."""
PIECE = 32768
"""Numbers that each thread updates at a time on a CPU, and a fourth of those that one thread alone does."""
_SCRATCH = 29
"""Bytes for each of them, where CUDA's kernel takes none: weight, gradient, states and a term; codes."""


def update_scratch(numbers: int) -> int:
    """Bytes that the update of a tensor of so many numbers takes beside it on a CPU."""
    return _SCRATCH * min(numbers, PIECE * max(4, torch.get_num_threads()))


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the birth and death of every tensor of a device while it is entered.

    Tensors of the meta device take no memory and compute nothing, so that a network of any size is counted in
    about a second. Not seen: what kernels allocate inside themselves, fragments between tensors, and memory
    that no tensor has. What the update of bitsandbytes' Adam takes on a CPU is known and added.

    Args:
        device: The type of the device whose tensors are counted.
        rounding: What the size of a storage is rounded up to, in bytes.
        cpu: Whether what is counted would be computed on a CPU.

    Attributes:
        work: For each operation that computes: arithmetic in FLOP, and bytes read and written.
    """

    _remembered = Remembered()  # of all ledgers: memory modes repeat each other's operations

    def __init__(self, device: str = "meta", rounding: int = ROUNDING, cpu: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.rounding, self.cpu = device, rounding, cpu
        self.work: list[tuple[float, int]] = []
        self._sizes: list[int] = []
        self._parts: list[str | None] = []
        self._events: list[int] = []  # n + 1 for the birth of storage n, -(n + 1) for its death
        self._known: dict[int, int] = {}  # living storages, by address of their implementation
        self._lasting: set[int] = set()

    def see(self, tensor: Tensor, part: str | None = None) -> None:
        """Count a tensor's storage from now on, if it is new, and say what it is for."""
        if tensor.device.type != self.device:
            return
        storage = tensor.untyped_storage()
        number = self._known.get(storage._cdata)
        if number is None:
            number = self._known[storage._cdata] = len(self._sizes)
            self._sizes.append(-(-storage.nbytes() // self.rounding) * self.rounding)
            self._parts.append(None)
            self._events.append(number + 1)
            weakref.finalize(storage, self._die, storage._cdata, number).atexit = False
        if part is not None:
            self._parts[number] = part

    def _die(self, address: int, number: int) -> None:
        if self._known.get(address) == number:
            del self._known[address]
        self._events.append(-(number + 1))

    def _pass(self, size: int) -> None:
        """Count what was made and let go of inside an operation."""
        number = len(self._sizes)
        self._sizes.append(size)
        self._parts.append("other")
        self._events += [number + 1, -(number + 1)]

    def see_lasting(self, tensor: Tensor, part: str) -> None:
        """Count a tensor as if it had been there from the beginning and stayed: it will at the next step."""
        self.see(tensor, part)
        if tensor.device.type == self.device:
            self._lasting.add(self._known[tensor.untyped_storage()._cdata])

    def name_rest(self, part: str) -> None:
        """Say that everything that lives and was for nothing yet is for this."""
        for number in self._known.values():
            self._parts[number] = self._parts[number] or part

    def part_of(self, tensor: Tensor) -> str | None:
        """What a tensor is for, as far as it was said."""
        number = self._known.get(tensor.untyped_storage()._cdata)
        return None if number is None else self._parts[number]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what it makes."""
        kwargs = kwargs or {}
        out = self._remembered(func, args, kwargs)
        given, made = [*tensors_of((args, [*kwargs.values()]))], [*tensors_of(out)]
        known = {tensor.untyped_storage()._cdata for tensor in given}  # views and updates make nothing
        from_weight = (
            func is _CAST and self.part_of(given[0]) == "weights" and torch.is_autocast_enabled("cpu")
        )
        for tensor in made:
            if tensor.untyped_storage()._cdata not in known:
                self.see(tensor, "casts" if from_weight else None)
        if self.cpu and func.name() in _UPDATES and args[0] == "adam":
            self._pass(update_scratch(given[0].numel()))
        if not func.is_view and func not in _IDLE:
            counted = flop_registry.get(func._overloadpacket)
            flop = counted(*args, **kwargs, out_val=out) if counted else 0
            moved = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
            self.work.append((flop, moved))
        return out

    # -- what it has seen -------------------------------------------------------------------------------

    def mark(self) -> int:
        """A moment, for `peak`."""
        return len(self._events)

    def peak(self, begin: int = 0, end: int | None = None) -> dict[str, int]:
        """Bytes by part at the moment between two marks when most was alive, largest part first."""
        lasting = sum(self._sizes[number] for number in self._lasting)
        changes = [self._change(event) for event in self._events[:end]]
        live, most, at = lasting, -1, begin
        for moment, change in enumerate(changes):
            live += change
            if moment >= begin - 1 and live > most:
                most, at = live, moment
        parts: dict[str, int] = defaultdict(int)
        for number in self._lasting:
            parts[self._parts[number] or "other"] += self._sizes[number]
        for event, change in zip(self._events[: at + 1], changes, strict=False):
            parts[self._parts[abs(event) - 1] or "other"] += change
        return dict(sorted(parts.items(), key=lambda item: -item[1]))

    def _change(self, event: int) -> int:
        number = abs(event) - 1
        return 0 if number in self._lasting else self._sizes[number] if event > 0 else -self._sizes[number]


def total(parts: Mapping[str, int]) -> int:
    """The sum of a peak's parts, in bytes."""
    return sum(parts.values())
