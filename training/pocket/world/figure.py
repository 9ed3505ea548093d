"""Figures: small solids in their own units, with antialiased parts lit as cylinders, balls and faces."""

from __future__ import annotations

import numpy as np

from training.pocket.world.canvas import Canvas, Light, rgb
from training.pocket.world.noise import Array


class Figure:
    """A window of the canvas in an object's own units: u right of its axis, v up from its foot.

    Args:
        canvas: The canvas, which gives coordinates and noise and is not drawn on.
        light: The scene's light.
        colour: The object's colour (3, 1, 1).
        lamp: True when its windows shine.
        x: Axis on the canvas.
        foot: Foot on the canvas (y).
        height: Height of one unit in canvas sides.
    """

    def __init__(
        self, canvas: Canvas, light: Light, colour: Array, lamp: bool, x: float, foot: float, height: float
    ) -> None:
        side = canvas.side
        self.rows = slice(
            max(int((foot - 1.14 * height) * side), 0), min(int((foot + 0.08 * height) * side) + 1, side)
        )
        self.columns = slice(
            max(int((x - 0.92 * height) * side), 0), min(int((x + 0.92 * height) * side) + 1, side)
        )
        self.u = (canvas.x[:, self.columns] - np.float32(x)) / np.float32(height)
        self.v = (np.float32(foot) - canvas.y[self.rows]) / np.float32(height)
        self.edge = np.float32(1.0 / (side * height))
        self.light = light
        self.colour = colour
        self.dark = colour * np.float32(0.42)
        self.lamp = lamp
        self.window = rgb((1.0, 0.84, 0.42)) if lamp else rgb((0.07, 0.07, 0.09))
        self.grain = 1 + np.float32(0.09) * canvas.noise.field("rock", 2)[self.rows, self.columns]
        self.random = canvas.random
        shape = (self.v.shape[0], self.u.shape[1])
        self.image = np.zeros((3, *shape), np.float32)
        self.alpha = np.zeros(shape, np.float32)
        self.lx, self.lz = 0.80 * light.side, 0.52

    def mask(self, distance: Array) -> Array:
        """Antialiased coverage of a signed distance in object units (negative inside)."""
        return np.clip(np.float32(0.5) - distance / self.edge, 0, 1)

    def box(self, x0: float, x1: float, y0: float, y1: float) -> Array:
        """An upright rectangle."""
        return self.mask(
            np.maximum(np.maximum(x0 - self.u, self.u - x1), np.maximum(y0 - self.v, self.v - y1))
        )

    def taper(self, w0: float, w1: float, y0: float, y1: float, x: float = 0.0) -> Array:
        """A trapezoid with half widths ``w0`` at ``y0`` and ``w1`` at ``y1``."""
        width = w0 + (w1 - w0) * (self.v - y0) / np.float32(y1 - y0)
        return self.mask(np.maximum(np.abs(self.u - x) - width, np.maximum(y0 - self.v, self.v - y1)))

    def disc(self, x: float, y: float, rx: float, ry: float) -> Array:
        """An upright ellipse."""
        radius = np.sqrt(((self.u - x) / rx) ** 2 + ((self.v - y) / ry) ** 2)
        return self.mask((radius - 1) * min(rx, ry))

    def limb(self, x0: float, y0: float, x1: float, y1: float, r0: float, r1: float) -> Array:
        """A capsule from one point to another with changing radius."""
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((self.u - x0) * dx + (self.v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        far = np.sqrt((self.u - x0 - t * dx) ** 2 + (self.v - y0 - t * dy) ** 2)
        return self.mask(far - (r0 + (r1 - r0) * t))

    def round(self, width: float, x: float = 0.0) -> Array:
        """Diffuse light on an upright cylinder of half width ``width``."""
        across = np.clip((self.u - x) / width, -1, 1)
        return np.asarray(np.maximum(across * self.lx + np.sqrt(1 - across * across) * self.lz, 0))

    def ball(self, x: float, y: float, rx: float, ry: float) -> Array:
        """Diffuse light on an ellipsoid."""
        nx, ny = (self.u - x) / rx, (self.v - y) / ry
        nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))
        return np.asarray(np.maximum(nx * self.lx * 0.8 + ny * np.float32(0.55) + nz * self.lz * 0.7, 0))

    def paint(self, mask: Array, colour: Array, diffuse: Array | float = 0.7, grain: bool = True) -> None:
        """Lay a lit surface."""
        surface = colour * self.light.on(diffuse)
        if grain:
            surface = surface * self.grain
        self.image += (surface - self.image) * mask
        self.alpha += (1 - self.alpha) * mask

    def glow(self, mask: Array) -> None:
        """A window: dark by day, a lamp by night and dusk."""
        self.image += (self.window - self.image) * mask

    def courses(self, count: float, depth: float = 0.16) -> Array:
        """Horizontal joints of masonry as a factor on light."""
        part = (self.v * np.float32(count)) % 1
        return 1 - np.float32(depth) * (part < 0.22)
