"""What a LoRA adds to a weight (Hu et al. 2021, arXiv:2106.09685, eq. 3)."""

import torch
from torch import Tensor


def lora_change(
    up: Tensor, down: Tensor, alpha: float, shape: tuple[int, ...], mid: Tensor | None = None
) -> Tensor:
    """What a LoRA adds to a layer's weight, in float32.

    Args:
        up: ``[out, r]`` or ``[out, r, 1, 1]``.
        down: ``[r, in]`` or ``[r, in, k, k]``; with `mid` ``[r, in, 1, 1]``.
        alpha: The scale times the rank.
        shape: Of the weight.
        mid: ``[r, r, k, k]``, the kernel between the two in the convolutions of LyCORIS' LoCon, or None.

    Returns:
        alpha / r * up @ down, in ``shape``.
    """
    left, right = up.float().flatten(1), down.float().flatten(1)
    kernel = None if mid is None else mid.float()
    product = left @ right if kernel is None else torch.einsum("or,rskl,si->oikl", left, kernel, right)
    return product.mul_(alpha / len(down)).reshape(shape)
