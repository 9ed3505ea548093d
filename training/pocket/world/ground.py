"""The ground that terrains are painted with: layers under a profile, and a plain in perspective."""

from __future__ import annotations

import numpy as np

from training.pocket.world.canvas import Canvas, Light, mix, rgb, smooth
from training.pocket.world.noise import Array
from training.pocket.world.scene import Scene

_SNOW = (0.90, 0.93, 1.0)
_BARREN = (0.44, 0.39, 0.34)


class Ground:
    """Paints the layers of a terrain from far to near.

    Args:
        canvas: The canvas, holding the sky.
        scene: The scene.
        light: Its light.
        horizon: Height of the horizon (y).
    """

    def __init__(self, canvas: Canvas, scene: Scene, light: Light, horizon: float) -> None:
        self.canvas, self.scene, self.light, self.horizon = canvas, scene, light, horizon
        self.snowy = scene.weather == "snowy"
        self.grand = 1.35 if "monumental" in scene.moods else 1.0
        self.thick = "atmospheric" in scene.moods or scene.weather == "foggy"
        self.lamps = scene.time in ("dusk", "night")

    def albedo(self, colour: tuple[float, float, float], snow: float = 0.85) -> Array:
        """The colour of the ground after snow and desolation."""
        value = rgb(colour)
        if "desolate" in self.scene.moods:
            value = mix(value, rgb(_BARREN), 0.7)
        return mix(value, rgb(_SNOW), snow) if self.snowy else value

    def layer(self, line: Array, colour: Array, diffuse: Array | float, far: float) -> None:
        """Fill under a profile; ``diffuse`` spans the canvas, ``far`` is 1 at the horizon and 0 near."""
        row, mask = self.canvas.below(line)
        shade = diffuse[row:] if isinstance(diffuse, np.ndarray) and diffuse.shape[0] > 1 else diffuse
        surface = colour[:, row:] if colour.shape[1] > 1 else colour
        lit = surface * self.light.on(shade)
        veil = np.float32(min(far * (0.95 if self.thick else 0.62), 0.93))
        lit += (self.light.haze - lit) * veil
        if self.thick:
            band = np.exp(-(((self.canvas.y[row:] - line - 0.05) / 0.06) ** 2)) * np.float32(
                0.55 * min(far + 0.35, 1.0)
            )
            lit = lit + (self.light.haze * np.float32(1.03) - lit) * band
        self.canvas.over(lit, mask, row)

    def plain(self, line: Array | float, colour: Array, bump: float = 0.35, grain: float = 1.0) -> None:
        """A flat ground in perspective from a line to the lower edge, textured finer towards the horizon."""
        canvas = self.canvas
        profile = np.full(canvas.side, line, np.float32) if isinstance(line, float) else line
        depth = np.float32(0.16) / (np.maximum(canvas.y - np.float32(self.horizon - 0.035), 0.012))
        texture = canvas.noise.warped(
            "rock", (canvas.x - 0.5) * depth * grain, depth * np.float32(1.7) * grain
        )
        near = smooth(self.horizon, 1.0, canvas.y)
        diffuse = 0.55 + np.float32(bump) * texture * (0.35 + 0.65 * near) - 0.16 * near
        self.layer(profile, colour, np.clip(diffuse, 0.05, 1.5), 0.0)
        veil = smooth(self.horizon + (0.20 if self.thick else 0.10), self.horizon - 0.02, canvas.y)
        row, mask = canvas.below(profile)
        canvas.over(self.light.haze, mask * veil[row:] * np.float32(0.75 if self.thick else 0.42), row)
