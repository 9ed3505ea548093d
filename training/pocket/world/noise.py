"""Fractal noise that looks the same at every resolution: periodic tiles cut off at the canvas's limit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: Planar fields and pictures; float32 throughout.
Array = NDArray[Any]
Kind = Literal["cloud", "rock", "streak"]

#: Spectral exponent and horizontal stretch of each kind of noise.
_KINDS: dict[str, tuple[float, float]] = {"cloud": (1.75, 1.0), "rock": (1.35, 1.0), "streak": (1.7, 3.0)}
_TILES = 4
_LIMIT = 1024


@lru_cache(maxsize=12)
def _spectrum(kind: str, tile: int) -> NDArray[np.complex64]:
    """The half spectrum of one tile, (1024, 513), rows ordered from the most negative frequency."""
    random = np.random.default_rng([list(_KINDS).index(kind), tile])
    shape = (_LIMIT, _LIMIT // 2 + 1)
    white = random.standard_normal((2, *shape), dtype=np.float32)
    exponent, stretch = _KINDS[kind]
    fy = np.arange(-_LIMIT // 2, _LIMIT // 2, dtype=np.float32)[:, None]
    fx = np.arange(_LIMIT // 2 + 1, dtype=np.float32)[None] * stretch
    radius = np.hypot(fx, fy)
    radius[_LIMIT // 2, 0] = np.inf
    return np.asarray((white[0] + 1j * white[1]) / radius**exponent, np.complex64)


@lru_cache(maxsize=64)
def _tile(kind: str, tile: int, period: int) -> Array:
    """Periodic noise of unit variance, wrapped to (2 period, 2 period).

    A smaller period keeps the low frequencies of the same spectrum, so it is the same picture seen coarser.
    """
    side = min(period, _LIMIT)
    half = _spectrum(kind, tile)
    middle = _LIMIT // 2
    cut = np.fft.ifftshift(half[middle - side // 2 : middle + side // 2, : side // 2 + 1], axes=0).copy()
    cut[side // 2] = 0
    cut[:, side // 2] = 0
    field = np.fft.irfft2(cut, s=(side, side)).astype(np.float32)
    if side < period:
        rows = np.arange(period) * side // period
        field = field[rows][:, rows]
    field -= field.mean()
    field /= field.std()
    return np.tile(field, (2, 2))


class Noise:
    """Draws noise fields for one canvas.

    Every draw reads the random stream in the same way at every canvas side, so a scene stays the same
    scene at any resolution.

    Args:
        random: The scene's random stream.
        side: The canvas side in pixels, a multiple of 64.
    """

    def __init__(self, random: np.random.Generator, side: int) -> None:
        self.random = random
        self.side = side

    def field(self, kind: Kind, grain: int = 1) -> Array:
        """A view (side, side) of zero mean, unit variance noise; features shrink with ``grain`` (1, 2, 4)."""
        tile, row, column = self._draw()
        period = 2 * self.side // grain
        data = _tile(kind, tile, period)
        r, c = int(row * period), int(column * period)
        if grain == 1:
            return data[r : r + self.side, c : c + self.side]
        index = np.arange(self.side)
        return data[(r + index)[:, None] % period, (c + index)[None] % period]

    def lit(self, kind: Kind, light: tuple[float, float], reach: float = 0.012) -> tuple[Array, Array]:
        """A field and its relief: its difference towards the light, a cheap shading of a bumpy surface.

        Args:
            kind: The kind of noise.
            light: Direction in which the light lies, (right, down), unit length.
            reach: Distance of the finite difference in canvas sides.

        Returns:
            The field and its relief, each (side, side); the relief has about unit scale, positive = lit.
        """
        tile, row, column = self._draw()
        period = 2 * self.side
        data = _tile(kind, tile, period)
        r, c = int(row * period), int(column * period)
        dr = round(light[1] * reach * self.side)
        dc = round(light[0] * reach * self.side)
        here = data[r : r + self.side, c : c + self.side]
        r2, c2 = (r + dr) % period, (c + dc) % period
        there = data[r2 : r2 + self.side, c2 : c2 + self.side]
        return here, (here - there) * np.float32(2.2)

    def warped(self, kind: Kind, u: Array, v: Array) -> Array:
        """The field read at coordinates ``u`` and ``v`` (canvas sides, any broadcastable shape)."""
        tile, row, column = self._draw()
        period = 2 * self.side
        data = _tile(kind, tile, period)
        r = ((v + row * 2) * self.side).astype(np.int32) % period
        c = ((u + column * 2) * self.side).astype(np.int32) % period
        return data[r, c]

    def line(self, kind: Kind, grain: float = 1.0) -> Array:
        """A one-dimensional profile (side,) of about unit scale."""
        tile, row, column = self._draw()
        period = 2 * self.side
        data = _tile(kind, tile, period)
        steps = np.arange(self.side, dtype=np.float32) * grain + column * period
        low = steps.astype(np.int32)
        part = steps - low
        r = int(row * period)
        return np.asarray(data[r, low % period] * (1 - part) + data[r, (low + 1) % period] * part)

    def _draw(self) -> tuple[int, float, float]:
        tile, row, column = self.random.random(3)
        return int(tile * _TILES), float(row), float(column)
