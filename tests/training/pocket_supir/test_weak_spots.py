"""The measures of weak spots see each fault and nothing else."""

import pytest
import torch

from training.pocket_supir import weak_spots


def test_a_plain_print_is_judged_by_level_band_and_worst_pixel():
    given = weak_spots.plain_pictures(32)[1:4]  # far from black and white
    assert max(weak_spots.plain_errors(given, given).values()) == 0
    brighter = given + 10 / 127.5
    assert weak_spots.plain_errors(brighter, given) == pytest.approx(
        {"level": 10, "band": 0, "worst": 10}, abs=1e-2
    )
    banded = given.clone()
    banded[..., -1, :] += 16 / 127.5
    errors = weak_spots.plain_errors(banded, given)
    assert errors == pytest.approx({"level": 0.5, "band": 15.5, "worst": 16}, abs=1e-2)


def test_outermost_lines_are_judged_against_lines_further_in():
    truth = torch.zeros(1, 3, 32, 32)
    noisy = truth + 4 / 127.5
    assert weak_spots.edge_excess(noisy, truth) == pytest.approx(0, abs=1e-4)
    noisy[..., :, 0] += 6 / 127.5  # one of four sides
    assert weak_spots.edge_excess(noisy, truth) == pytest.approx(6 / 4, abs=0.2)
    assert weak_spots.colour_shift(truth + 2 / 127.5, truth) == pytest.approx(
        {"mean": 2, "most": 2}, abs=1e-3
    )


def test_flecks_are_told_from_stars():
    night = torch.full((1, 3, 64, 64), -0.9)
    night[..., 20, 20] = night[..., 40, 44] = 0.5
    found = weak_spots.flecks(night, night)
    assert found == {"lost": 0, "dark": 0, "bright": 0, "error": 0}
    moved = night.roll(2, -1)
    assert weak_spots.flecks(moved, night)["lost"] == weak_spots.flecks(moved, night)["dark"] == 0
    dull = night.clone()
    dull[..., 20, 20] = -0.85
    assert weak_spots.flecks(dull, night)["lost"] == 50
    fleck = night.clone()
    fleck[..., 24, 20] = -1.0
    assert weak_spots.flecks(fleck, night)["dark"] == 50
    far = night.clone()
    far[..., 60, 4] = 0.5  # nowhere near a star
    assert weak_spots.flecks(far, night)["bright"] == 0
    twin = night.clone()
    twin[..., 25, 25] = 0.5
    assert weak_spots.flecks(twin, night)["bright"] == 50


def test_scenes_with_stars_or_snow_have_specks_in_them():
    scenes = weak_spots.dotted_scenes(2)
    assert scenes.shape == (2, 3, 256, 256)
    stars = weak_spots.peaks(weak_spots.specks(weak_spots.brightness(scenes)), weak_spots.STAR)
    assert (stars.sum((1, 2, 3)) >= 10).all()
