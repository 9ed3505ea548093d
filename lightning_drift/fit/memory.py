"""The memory modes of a fit: what is kept on the device, and what is made again instead."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryMode:
    """What a mode does; all of them compute the same numbers.

    Args:
        split: Trained weights are float16 numbers and 16-bit remainders (`weights/split_weights`).
        defer: A layer's weight gradient of more than this many times the numbers of the layer's input and
            output is not held, but made when it is wanted (`fit/deferred_gradients`); None for no layer.
        recompute: Activations that are cheap to make again are not kept (`fit/recompute`).
        paged: The optimizer's states lie in the computer's memory, and come to the device one by one.
    """

    split: bool = False
    defer: float | None = None
    recompute: bool = False
    paged: bool = False


MEMORY_MODES = {
    "full": MemoryMode(),
    "split": MemoryMode(split=True),
    "deferred": MemoryMode(split=True, defer=8),
    "recompute": MemoryMode(split=True, defer=4, recompute=True),
    "paged": MemoryMode(split=True, defer=4, recompute=True, paged=True),
}
"""By name, each smaller than the one before it."""
