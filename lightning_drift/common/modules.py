"""Networks for a while elsewhere or in another mode, and a hash of their weights."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every submodule's own mode is restored."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    try:
        for root in modules:
            root.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def placed(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
    """A module on a device, and in a dtype if one is given, for a while; then back where it was.

    Args:
        module: A module whose parameters share one device and dtype.
        device: Where it is used.
        dtype: In which precision; None for its own.
    """
    first = next(module.parameters())
    home, precision = first.device, first.dtype
    try:
        # nn.Module's own `to`: that of diffusers' classes warns about half precision on a CPU. On a device
        # that is full some parameters have moved when it fails.
        nn.Module.to(module, device=device, dtype=dtype)
        yield
    finally:
        nn.Module.to(module, device=home, dtype=precision)


def weights_hash(module: nn.Module) -> str:
    """BLAKE2b over the names, dtypes, shapes and bytes of a module's state dict, 64 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
