"""Convolutions summed in the order in which the golden data's machine summed them.

Where two machines add up the same products in another order, float32 convolutions of 1,152 terms differ by
some 3e-7: more than the 2e-7 that an adapter may be off. So the adapters' own code is run with that machine's
order, which the golden data give away: bias first, then blocks of at most 384 terms of equal size, each block
from zero with one fused multiply-add per term. The ten ZeroSFT results are then the golden ones to the bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

BLOCK = 384


class GoldenArithmetic(TorchFunctionMode):
    """While it is entered, every `conv2d` of batch 1 and stride 1 sums in the golden data's order."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is not torch.conv2d:
            return function(*args, **(kwargs or {}))
        return convolve(*args[:3], padding=args[4])


def convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
    """[1, C, h, w] to [1, D, h, w]."""
    columns, rows = F.unfold(x, weight.shape[2:], padding=padding)[0], weight.flatten(1)
    terms = len(columns)
    size = -(-terms // -(-terms // BLOCK))
    total = bias[:, None].expand(-1, columns.shape[1])
    for left, right in zip(rows.split(size, dim=1), columns.split(size), strict=True):
        block = torch.zeros_like(total)
        for k in range(len(right)):
            # A product of two float32 is exact in float64: rounded once, as a fused multiply-add does.
            block = (block + left[:, k : k + 1].double() * right[k].double()).float()
        total = total + block
    return total.reshape(1, -1, *x.shape[2:])
