"""Scenes for what the world shows too seldom: pictures of one colour or a gradient, stars, falling snow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.pocket.scenes import Scenes
from training.pocket.world.scene import Scene, sample_scene

SAMPLES = 1_000_000
"""Far apart enough that the draws for one place do not meet those for another."""


class HardScenes(Scenes):
    """Scenes of a world with weak spots of prints among them.

    Of every eight, one is plain (a single colour or a gradient of two, as often) and has no caption, and
    three show stars or falling snow.

    The arguments are those of `Scenes`; the folder for painted blocks must not be that of other scenes.
    """

    def scene(self, index: int) -> Scene:
        """The description of scene ``index``; of a plain picture, one that is not painted."""
        if index % 8 not in (1, 3, 5):
            return super().scene(index)
        draws = (sample_scene(self.seed, index + SAMPLES * k) for k in range(1, 1000))
        return next(scene for scene in draws if dotted(scene))

    def paint(self, index: int) -> NDArray[np.uint8]:
        """The picture of scene ``index``, painted anew."""
        return plain(self.seed, index, self.size) if is_plain(index) else super().paint(index)

    def caption(self, index: int, random: np.random.Generator) -> str:
        """A caption; none for a plain picture."""
        return "" if is_plain(index) else super().caption(index, random)


def is_plain(index: int) -> bool:
    """Whether scene ``index`` of `HardScenes` is a plain picture."""
    return index % 8 == 7


def dotted(scene: Scene) -> bool:
    """Whether a scene shows stars or falling snow."""
    if scene.weather == "snowy":
        return scene.style != "drawing"
    return scene.time == "night" and scene.weather == "clear"


def plain(seed: int, index: int, size: int) -> NDArray[np.uint8]:
    """A picture (size, size, 3) of one colour, or running from one to another in some direction.

    Every third colour is a grey.

    Args:
        seed: Seed of the pictures.
        index: Number of the picture.
        size: Its side in pixels.
    """
    random = np.random.default_rng([seed, index, 1])
    colours = random.random((2, 3)) * 255
    if random.random() < 1 / 3:
        colours[:] = colours[:, :1]
    if random.random() < 0.5:
        colours[1] = colours[0]
    angle = random.random() * 2 * np.pi
    places = (np.arange(size) + 0.5) / size - 0.5
    along = places[:, None] * np.sin(angle) + places * np.cos(angle)
    along = (along / (abs(np.sin(angle)) + abs(np.cos(angle))) + 0.5)[..., None]
    return np.asarray(colours[0] + (colours[1] - colours[0]) * along + 0.5).astype(np.uint8)
