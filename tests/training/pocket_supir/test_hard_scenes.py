"""Plain pictures, stars and snow among the scenes of a world."""

import numpy as np

from training.pocket.scenes import Scenes
from training.pocket_supir.hard_scenes import HardScenes, dotted, is_plain


def test_hard_scenes_are_a_world_with_plain_pictures_stars_and_snow_among_it(tmp_path):
    world, hard = Scenes(3, 32, 64), HardScenes(3, 32, 64)
    kept = [index for index in range(32) if hard.scene(index) == world.scene(index) and not is_plain(index)]
    assert len(kept) == 16
    assert np.array_equal(hard.image(kept[3]), world.image(kept[3]))
    assert sum(dotted(hard.scene(index)) for index in range(32)) >= 12
    assert len({hard.scene(index).seed for index in range(32)}) == 32
    captions = hard.captions(list(range(32)), 0)
    assert all(captions[index] == "" for index in range(7, 32, 8))
    assert sum(text != "" for text in captions) > 20


def test_plain_pictures_are_of_one_colour_or_run_from_one_to_another():
    pictures = [HardScenes(3, 1000, 64).image(index).astype(int) for index in range(7, 800, 8)]
    flat = [picture for picture in pictures if (picture == picture[0, 0]).all()]
    assert 30 < len(flat) < 70
    assert len({tuple(picture[0, 0]) for picture in flat}) == len(flat)
    greys = [picture for picture in flat if len(set(picture[0, 0])) == 1]
    assert 5 < len(greys) < 30
    for picture in pictures:
        steps = np.abs(np.diff(picture, axis=0)).max(), np.abs(np.diff(picture, axis=1)).max()
        assert max(steps) <= 255 / 63 + 1  # smooth
    assert np.array_equal(pictures[0], HardScenes(3, 8, 64).image(7))
