"""Every second scene shows stars or snow, the others are the world's."""

import numpy as np

from training.pocket.scenes import Scenes
from training.pocket_supir.dotted_scenes import DottedScenes, dotted


def test_every_second_scene_shows_stars_or_snow_and_the_others_are_the_worlds():
    world, scenes = Scenes(3, 32, 64), DottedScenes(3, 32, 64)
    for index in range(0, 32, 2):
        assert scenes.scene(index) == world.scene(index)
    shown = [scenes.scene(index) for index in range(1, 32, 2)]
    assert all(map(dotted, shown))
    assert len({scene.seed for scene in shown}) == 16
    assert not all(dotted(world.scene(index)) for index in range(1, 32, 2))
    # Stars and flakes are bright specks: the picture and the words are those of the scene that was found.
    index = next(k for k in range(1, 32, 2) if scenes.scene(k) != world.scene(k))
    assert not np.array_equal(scenes.image(index), world.image(index))
    assert scenes.captions([index], 0) == DottedScenes(3, 4096, 64).captions([index], 0)
