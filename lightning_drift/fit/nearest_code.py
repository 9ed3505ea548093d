"""bitsandbytes' 8-bit codes, found by two look-ups."""

from dataclasses import dataclass
from functools import cache

import torch
from bitsandbytes.functional import create_dynamic_map
from torch import Tensor


@dataclass(frozen=True)
class NearestCode:
    """bitsandbytes' rounding to the nearest of 256 numbers as two look-ups.

    A number's upper 16 bits decide its code but for one limit, at which it becomes the next: no two limits of
    bitsandbytes' maps lie between numbers that share them.

    Args:
        codes: float32 [256], rising.
        first: uint8 [65536], the code of the smallest number with these upper 16 bits; 0 where it is not one.
        limits: float32 [256], the largest number that still has this code; infinite for the last.
    """

    codes: Tensor
    first: Tensor
    limits: Tensor

    @classmethod
    def of(cls, codes: Tensor) -> "NearestCode":
        """The look-ups of a map, on the CPU.

        Raises:
            ValueError: Two limits lie too near to each other.
        """
        codes = codes.detach().float().cpu()
        middles = (codes[:-1] + codes[1:]) * 0.5
        # bitsandbytes' search ends at an even code and leaves it only for what is nearer to another.
        below = torch.nextafter(middles, torch.tensor(-torch.inf))
        limits = torch.where(torch.arange(len(middles)) % 2 == 0, middles, below)
        limits = torch.cat([limits, torch.tensor([torch.inf])])
        keys = torch.arange(1 << 16, dtype=torch.int64)
        ends = torch.stack([keys << 16, (keys << 16) | 0xFFFF])
        ends = torch.where(ends >= 1 << 31, ends - (1 << 32), ends).to(torch.int32).view(torch.float32)
        finite = torch.isfinite(ends).all(0)
        low, high = ends.nan_to_num(0).sort(0).values
        first, last = (torch.searchsorted(limits, numbers.contiguous()) for numbers in (low, high))
        if (last - first)[finite].max() > 1:
            raise ValueError("two limits between codes lie too near to each other")
        return cls(codes, torch.where(finite, first, 0).to(torch.uint8), limits)


@dataclass(frozen=True)
class StateCode:
    """How bitsandbytes' CUDA kernel rounds one of Adam's states, for the CPU: two look-ups by the upper bits.

    Args:
        codes: float32 [256], what the codes stand for.
        first: uint8 [65536], as `NearestCode.first`.
        limits: float32 [65536], the largest number that still has that code.
    """

    codes: Tensor
    first: Tensor
    limits: Tensor


@cache
def state_code(number: int) -> StateCode:
    """The look-ups of state 1, the mean of the gradients, or of state 2, that of their squares."""
    nearest = NearestCode.of(create_dynamic_map(signed=number == 1))
    first, limits = nearest.first.clone(), nearest.limits[nearest.first.long()]
    if number == 1:
        keys = torch.arange(len(first))
        # What is negative stays negative: it is not rounded to zero, which is code 127.
        to_zero = (keys >= 1 << 15) & (first >= 126)
        first[to_zero], limits[to_zero] = 126, torch.inf
        first[(keys & 0x7F80) == 0x7F80] = 255  # a block of zeros over its largest number: NaN
    return StateCode(nearest.codes, first, limits)
