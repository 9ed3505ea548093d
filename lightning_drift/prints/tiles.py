"""Enlarging a picture in overlapping tiles whose seams do not show."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor

ALIGNED = 16
"""Tiles begin at multiples of so many pixels, and so do the windows of attention, of 8 or 16, inside them."""


@dataclass(frozen=True)
class Tiles:
    """How pictures are cut.

    Of the overlap of two tiles three eighths at the edge of each are thrown away, because the network does
    not know what lies beyond; in the quarter between, one tile fades into the other. A network that looks no
    farther than three eighths of the overlap makes the whole picture's pixels.

    Args:
        size: Longest side in pixels before enlarging, a multiple of 16; 0 takes every picture whole.
        overlap: Smallest overlap of neighbours in pixels, a multiple of 16, at most half the size.
    """

    size: int
    overlap: int

    def spans(self, length: int) -> list[tuple[int, int]]:
        """First and end pixel of each tile along a side; spread evenly.

        >>> Tiles(64, 16).spans(100)
        [(0, 64), (48, 100)]
        """
        if not self.size or length <= self.size:
            return [(0, length)]
        count = ceil((length - self.overlap) / (self.size - self.overlap))
        starts = [-(-k * (length - self.size) // ((count - 1) * ALIGNED)) * ALIGNED for k in range(count)]
        return [(start, min(start + self.size, length)) for start in starts]

    def count(self, width: int, height: int) -> int:
        """Tiles of a picture."""
        return len(self.spans(width)) * len(self.spans(height))

    def pixels(self, width: int, height: int) -> int:
        """Pixels of all tiles of a picture together, overlaps counted as often as they are made."""
        across, down = (sum(end - start for start, end in self.spans(side)) for side in (width, height))
        return across * down

    def weights(self, spans: list[tuple[int, int]], scale: int) -> list[Tensor]:
        """What each enlarged tile counts along a side, [scale times its length]; they add up to 1."""
        half = max(self.overlap / 8, 1e-6)
        seams = [(end + start) / 2 for (_, end), (start, _) in pairwise(spans)]
        found = []
        for k, (start, end) in enumerate(spans):
            places = (torch.arange(start * scale, end * scale, dtype=torch.float64) + 0.5) / scale
            weight = torch.ones_like(places)
            if k > 0:
                weight = ((places - seams[k - 1]) / (2 * half) + 0.5).clamp(0, 1)
            if k < len(seams):
                weight = weight - ((places - seams[k]) / (2 * half) + 0.5).clamp(0, 1)
            found.append(weight.float())
        return found

    def enlarge(
        self,
        pixels: Tensor,
        scale: int,
        work: Callable[[Tensor], Tensor],
        advance: Callable[[], object] = bool,
    ) -> Tensor:
        """Pictures [B, 3, H, W], enlarged tile by tile to [B, 3, scale H, scale W], float32 on the CPU.

        Args:
            pixels: The pictures.
            scale: How many times ``work`` enlarges.
            work: Enlarges a tile [B, 3, h, w]; its result may be anywhere.
            advance: Called after each tile.
        """
        rows, columns = self.spans(pixels.shape[-2]), self.spans(pixels.shape[-1])
        if len(rows) == len(columns) == 1:
            whole = work(pixels).to("cpu", torch.float32)
            advance()
            return whole
        made = torch.zeros(*pixels.shape[:2], *(scale * side for side in pixels.shape[-2:]))
        for (top, bottom), down in zip(rows, self.weights(rows, scale), strict=True):
            for (left, right), across in zip(columns, self.weights(columns, scale), strict=True):
                tile = work(pixels[..., top:bottom, left:right]).to("cpu", torch.float32)
                place = made[..., top * scale : bottom * scale, left * scale : right * scale]
                place += tile * down[:, None] * across
                advance()
        return made
