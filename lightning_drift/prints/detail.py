"""A part of a print that is looked at before the whole is made, and where most detail is in a picture."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lightning_drift.prints.sizes import Box, Size

_LOOKED_AT = 512
"""Longest side in pixels at which the busiest part is looked for."""
_PART = 4
"""It is a square of this part of the shorter side."""


@dataclass
class Detail:
    """A square part of a result, to be looked at before the whole is made.

    Args:
        side: Its side in pixels of the result; None for the least that the upscaler processes.
        at: Where its centre is, from 0, 0 (left, top) to 1, 1; None for where most detail is, until the
            picture's file is read.
    """

    side: int | None = None
    at: tuple[float, float] | None = None

    def region(self, output: Size, least: int) -> Box:
        """The part of a result of so many pixels; all of a side that is shorter.

        Args:
            output: The result's size.
            least: The least that the upscaler processes.
        """
        edges = []
        for length, place in zip(output, self.at or (0.5, 0.5), strict=True):
            side = min(self.side or least, length)
            begin = min(max(0, round(place * length - side / 2)), length - side)
            edges.append((begin, begin + side))
        (left, right), (top, bottom) = edges
        return left, top, right, bottom

    def described(self, least: int) -> str:
        """It in the words of image metadata."""
        return "{:g} pixels at {:g} {:g}".format(self.side or least, *(self.at or (0.5, 0.5)))


def busiest(image: Image.Image, box: Box) -> tuple[float, float]:
    """Where in a part of a picture most detail is: the square whose gradients have the most energy.

    Args:
        image: The picture.
        box: The part of it.

    Returns:
        The square's centre from 0, 0 (left, top of the part) to 1, 1, in thousandths.
    """
    wide, high = box[2] - box[0], box[3] - box[1]
    scale = min(1.0, _LOOKED_AT / max(wide, high))
    size = max(2, round(wide * scale)), max(2, round(high * scale))
    grey = image.convert("L").resize(size, Image.Resampling.BOX, box=box)
    levels = np.asarray(grey, np.float64)
    energy = np.zeros_like(levels)
    energy[:, 1:] += np.diff(levels, axis=1) ** 2
    energy[1:] += np.diff(levels, axis=0) ** 2
    side = max(1, min(size) // _PART)
    sums = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return round((column + side / 2) / size[0], 3), round((row + side / 2) / size[1], 3)
