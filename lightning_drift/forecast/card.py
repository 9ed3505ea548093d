"""A graphics card: how much of its memory is free, how fast it is, and what a fit needs of it."""

import re
import sys
from dataclasses import dataclass

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import real

GIB = 2**30
FRAGMENTS = 1.04
"""What the allocator holds over what tensors take: assumed."""
CONTEXT = (0.6 if sys.platform == "win32" else 0.45) * GIB
"""CUDA's context with the kernels of its libraries: assumed."""
MARGIN = 0.15 * GIB
"""For what no forecast sees, such as a convolution's workspace."""
_USABLE = 0.95
"""Of the memory that a card is sold with; the rest is the driver's."""

# Dense float16 products with float32 sums (TFLOP/s) and memory (GB/s), as NVIDIA's data sheets give them.
_SPEEDS = {
    "H200": (989, 4800),
    "H100": (989, 3350),
    "A100": (312, 1555),
    "L40S": (362, 864),
    "L4": (121, 300),
    "A10": (125, 600),
    "T4": (65, 320),
    "V100": (125, 900),
    "RTX 5090": (210, 1792),
    "RTX 4090": (165, 1008),
    "RTX 4080": (97, 717),
    "RTX 4070": (58, 504),
    "RTX 4060": (30, 272),
    "RTX 3090": (71, 936),
    "RTX 3080": (59, 760),
    "RTX 3070": (41, 448),
    "RTX 3060": (25.6, 360),
    "RTX 2080": (43, 448),
}
_ARITHMETIC, _TRAFFIC, _LAUNCH, _CALL = 0.55, 0.80, 2.5e-6, 7e-6
"""Shares of the data sheet that networks reach; seconds of a launch, on the card and in Python: assumed."""


def needed(tensors: float) -> float:
    """Bytes of a card's free memory that a fit needs whose tensors take so many at most."""
    return tensors * FRAGMENTS + CONTEXT + MARGIN


def affordable(free: float) -> float:
    """Bytes of tensors that a fit may have on a card with so many free."""
    return (free - CONTEXT - MARGIN) / FRAGMENTS


def check_card(size: float | None, dry_run: bool) -> None:
    """Refuse what is no card's size, or one that nothing would be compared with.

    Args:
        size: GiB; None for the card that is here.
        dry_run: Whether a plan is all that is asked for.

    Raises:
        UserError: The number is out of range, or a fit is to run, which takes the card that is here.
    """
    if size is None:
        return
    Card.of(size)
    if not dry_run:
        raise UserError("it is what --dry_run compares a plan with; give --dry_run too", "card")


@dataclass(frozen=True)
class Card:
    """A card, here or elsewhere.

    Attributes:
        name: What messages call it.
        free: Bytes that are free, as they were before this process used it.
    """

    name: str
    free: float

    @classmethod
    def here(cls, device: torch.device) -> "Card":
        """A CUDA device of this machine."""
        free, _ = torch.cuda.mem_get_info(device)
        # What this process holds is there for it; asking has made a context.
        return cls(torch.cuda.get_device_name(device), free + torch.cuda.memory_reserved(device) + CONTEXT)

    @classmethod
    def of(cls, size: float) -> "Card":
        """A card that is sold with so many GiB.

        Raises:
            UserError: The number is out of range.
        """
        real(size, "card", above=0, high=1000)
        return cls(f"a card of {size:g} GiB", size * _USABLE * GIB)

    def seconds(self, work: list[tuple[float, int]]) -> float | None:
        """Seconds of operations on this card, calculated from its name; None where that tells nothing.

        The larger of arithmetic and memory traffic for each operation (Williams et al. 2009, roofline), or
        the time Python takes to ask for them all, whichever is longer.

        Args:
            work: Arithmetic in FLOP and bytes moved, operation by operation.
        """
        known = next(
            (name for name in _SPEEDS if re.search(rf"\b{name}\b", self.name.replace("GeForce ", ""))), None
        )
        if known is None:
            return None
        teraflops, gigabytes = _SPEEDS[known]
        arithmetic, traffic = teraflops * 1e12 * _ARITHMETIC, gigabytes * 1e9 * _TRAFFIC
        computing = sum(max(flop / arithmetic, moved / traffic, _LAUNCH) for flop, moved in work)
        return max(computing, len(work) * _CALL)
