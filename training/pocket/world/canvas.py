"""The canvas scenes are painted on: planar colour, soft masks, and the light of the hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.pocket.world.noise import Array, Noise

#: Sky colours (zenith, middle, horizon), sunlight and skylight of each time of day.
HOURS: dict[
    str, tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float], Sequence[float]]
] = {
    "dawn": (
        (0.40, 0.52, 0.76),
        (0.80, 0.72, 0.80),
        (1.0, 0.84, 0.70),
        (0.80, 0.60, 0.46),
        (0.44, 0.44, 0.54),
    ),
    "noon": (
        (0.10, 0.34, 0.78),
        (0.32, 0.60, 0.92),
        (0.76, 0.89, 0.97),
        (0.86, 0.82, 0.72),
        (0.36, 0.42, 0.50),
    ),
    "dusk": (
        (0.17, 0.13, 0.38),
        (0.66, 0.27, 0.40),
        (1.0, 0.56, 0.20),
        (0.88, 0.44, 0.20),
        (0.30, 0.23, 0.34),
    ),
    "night": (
        (0.015, 0.025, 0.10),
        (0.04, 0.08, 0.23),
        (0.13, 0.20, 0.38),
        (0.36, 0.42, 0.58),
        (0.15, 0.18, 0.31),
    ),
}


def rgb(colour: Sequence[float]) -> Array:
    """A colour (3, 1, 1) that broadcasts over a planar canvas."""
    return np.asarray(colour, np.float32).reshape(3, 1, 1)


def smooth(low: float, high: float, x: ArrayLike) -> Array:
    """Hermite step from 0 at ``low`` to 1 at ``high`` (which may be the smaller)."""
    t = np.clip((np.asarray(x, np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def mix(a: Array, b: Array, amount: float) -> Array:
    """From ``a`` (amount 0) to ``b`` (amount 1)."""
    return a + (b - a) * np.float32(amount)


@dataclass
class Light:
    """The light of one scene, in canvas units (x right, y down, 0..1).

    Attributes:
        x: Where the sun or moon stands, horizontally.
        y: The same, vertically.
        sun: Colour of direct light (3, 1, 1).
        ambient: Colour of skylight.
        haze: Colour of distant air.
    """

    x: float
    y: float
    sun: Array
    ambient: Array
    haze: Array

    @property
    def side(self) -> float:
        """-1 when the light comes from the left of the middle, else 1."""
        return 1.0 if self.x >= 0.5 else -1.0

    @property
    def direction(self) -> tuple[float, float]:
        """Towards the light in the picture plane, (right, down), unit length."""
        dx, dy = 0.75 * self.side, -0.66
        length = float(np.hypot(dx, dy))
        return dx / length, dy / length

    def on(self, diffuse: ArrayLike) -> Array:
        """Light on a surface: skylight plus sunlight times the diffuse term (broadcastable to 3, h, w)."""
        return np.asarray(self.ambient + self.sun * np.asarray(diffuse, np.float32))


class Canvas:
    """A planar picture (3, side, side), with coordinates and noise.

    Args:
        random: The scene's random stream.
        side: Side in pixels.
    """

    def __init__(self, random: np.random.Generator, side: int) -> None:
        self.side = side
        self.random = random
        self.noise = Noise(random, side)
        axis = ((np.arange(side, dtype=np.float32) + 0.5) / side).astype(np.float32)
        self.x = axis[None]
        self.y = axis[:, None]
        self.image = np.zeros((3, side, side), np.float32)

    def over(self, colour: Array, mask: Array, first_row: int = 0) -> None:
        """Lay a colour (3, 1 or h, 1 or w) over the rows from ``first_row`` with a mask (h, w) in 0..1."""
        part = self.image[:, first_row:]
        part += (colour - part) * mask

    def add(self, colour: Array, amount: Array) -> None:
        """Add light of a colour (3, 1, 1), amount (side, side)."""
        self.image += colour * amount

    def below(self, line: Array, soft: float = 0.0) -> tuple[int, Array]:
        """The region under a profile.

        Args:
            line: Heights (side,) as y coordinates.
            soft: Extra softness of the edge in canvas sides.

        Returns:
            The first row that holds any of it, and the antialiased mask (side - row, side).
        """
        edge = 1.0 / self.side + soft
        row = int(np.clip((float(line.min()) - edge) * self.side, 0, self.side - 1))
        return row, np.clip((self.y[row:] - line) / np.float32(edge) + np.float32(0.5), 0, 1)

    def uniform(self, low: float, high: float) -> float:
        """One number from the scene's stream."""
        return float(self.random.uniform(low, high))
