"""Scenes of a world with more stars and falling snow, which prints lose."""

from __future__ import annotations

from training.pocket.scenes import Scenes
from training.pocket.world.scene import Scene, sample_scene

FAR = 1_000_000
"""Between the scenes of a world that are looked through for one place; more than a training has scenes."""


class DottedScenes(Scenes):
    """Scenes of a world; every second one shows stars or falling snow.

    The arguments are those of `Scenes`, but for the cache: its folder must not be that of other scenes.
    """

    def scene(self, index: int) -> Scene:
        """The description of scene ``index``."""
        if index % 2 == 0:
            return super().scene(index)
        places = range(index, index + 1000 * FAR, FAR)
        return next(filter(dotted, (sample_scene(self.seed, place) for place in places)))


def dotted(scene: Scene) -> bool:
    """Whether a scene shows stars or falling snow."""
    if scene.weather == "snowy":
        return scene.style != "drawing"
    return scene.time == "night" and scene.weather == "clear"
