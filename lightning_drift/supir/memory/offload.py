"""Where weights are: lent to a device while a part works, or layer by layer as the layers run.

The host keeps its copy (for float16 and bfloat16 files the mapped file itself), so that handing weights back
costs nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 2**20
"""Layers of fewer bytes are never streamed, such as norms, whose weights are also used without a call."""


class Loan:
    """The weights of a module, lent to a device and taken back.

    Args:
        module: A module on the host.
        device: The device they are lent to.
        own: Parameters and buffers of the module itself only, not of its children.
    """

    def __init__(self, module: nn.Module, device: torch.device, own: bool = False) -> None:
        self.device = device
        self.tensors = [
            *module.parameters(recurse=not own),
            *(buffer for buffer in module.buffers(recurse=not own)),
        ]
        self.host: list[Tensor] = [tensor.data for tensor in self.tensors]

    @property
    def size(self) -> int:
        """Bytes that the loan takes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.host)

    def lend(self) -> None:
        """Copy the weights to the device."""
        for tensor, host in zip(self.tensors, self.host, strict=True):
            tensor.data = host.to(self.device, non_blocking=True, copy=True)

    def take_back(self) -> None:
        """Let the device's copies go."""
        for tensor, host in zip(self.tensors, self.host, strict=True):
            tensor.data = host


@contextmanager
def lent(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Lend a module's weights to a device for a while."""
    loan = Loan(module, device)
    loan.lend()
    try:
        yield
    finally:
        loan.take_back()


class Stream:
    """Lends each layer's weights while it runs, beyond those that a budget keeps on the device throughout.

    Args:
        module: A module on the host.
        device: The device it runs on.
        budget: Bytes of weights that may stay on the device.
    """

    def __init__(self, module: nn.Module, device: torch.device, budget: int) -> None:
        self.kept: list[Loan] = []
        self.streamed: list[Loan] = []
        self._hooks: list[Any] = []
        for layer in module.modules():
            loan = Loan(layer, device, own=True)
            if not loan.size:
                continue
            if loan.size <= max(budget, SMALL):
                budget -= loan.size
                self.kept.append(loan)
                continue
            self.streamed.append(loan)
            self._hooks += [
                layer.register_forward_pre_hook(lambda *_, loan=loan: loan.lend()),
                layer.register_forward_hook(lambda *_, loan=loan: loan.take_back()),
            ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the budget's weights on the device for a while; afterwards the module is as before."""
        for loan in self.kept:
            loan.lend()
        try:
            yield
        finally:
            for loan in (*self.kept, *self.streamed):
                loan.take_back()
            for hook in self._hooks:
                hook.remove()
