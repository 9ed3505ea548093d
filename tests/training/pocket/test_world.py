import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from training.pocket.probes import colour_excess, statistics
from training.pocket.world.captions import caption, full_caption
from training.pocket.world.render import example, render
from training.pocket.world.scene import (
    COLOURS,
    MOODS,
    OBJECTS,
    POSITIONS,
    STYLES,
    TERRAINS,
    TIMES,
    WEATHERS,
    Scene,
    sample_scene,
)

PLAIN = Scene("meadow", "noon", "clear", "photo", None, None, "", "", False, (), 7)


def unit(scene: Scene, size: int = 64):
    return render(scene, size).astype(np.float64) / 255


def average(scene: Scene, value, seeds=range(6)) -> float:
    return float(np.mean([value(unit(replace(scene, seed=seed))[None])[0] for seed in seeds]))


def test_a_scene_is_the_same_in_another_process():
    code = (
        "import hashlib; from training.pocket.world.render import example\n"
        "h = hashlib.sha256()\n"
        "for i in (3, 1, 2): s, x, c = example(5, i); h.update(repr(s).encode() + x.tobytes() + c.encode())\n"
        "print(h.hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)
    }
    assert len(runs) == 1
    # and does not depend on what was painted before it
    alone = example(5, 2)[1]
    example(5, 9)
    np.testing.assert_array_equal(alone, example(5, 2)[1])


def test_scenes_differ_by_index_and_by_world():
    scenes = [sample_scene(seed, index) for seed in (0, 1) for index in range(50)]
    assert len(set(scenes)) == 100


@pytest.mark.parametrize("index", range(12))
def test_coarse_and_fine_renderings_are_one_scene(index):
    scene = replace(sample_scene(11, index), style="photo")
    small, large = unit(scene, 64), unit(scene, 128)
    reduced = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.sqrt(((small - reduced) ** 2).mean()) < 0.05
    other = unit(replace(scene, seed=scene.seed + 1), 64)
    assert ((small - reduced) ** 2).mean() < 0.5 * ((small - other) ** 2).mean()


def test_large_picture_and_wrong_sizes():
    assert render(PLAIN, 512).shape == (512, 512, 3)
    for size in (0, 63, 70, 1024):
        with pytest.raises(ValueError, match="multiple of 8"):
            render(PLAIN, size)


def test_sampled_scenes_keep_their_promises():
    scenes = [sample_scene(2, index) for index in range(3000)]
    for scene in scenes:
        assert len(set(scene.moods)) == len(scene.moods)
        assert not {"dramatic", "serene"} <= set(scene.moods)
        assert not {"desolate", "vivid"} <= set(scene.moods)
        if "monumental" in scene.moods:
            assert scene.object
            assert scene.size == "huge"
        if scene.object is None:
            assert (scene.colour, scene.size, scene.position) == (None, "", "")
        if scene.weather in ("foggy", "stormy"):
            assert scene.body is None
        assert scene.body in (None, "moon" if scene.time == "night" else "sun")
    for name, values in {"terrain": TERRAINS, "time": TIMES, "weather": WEATHERS, "style": STYLES}.items():
        assert {getattr(scene, name) for scene in scenes} == set(values)
    assert {scene.object for scene in scenes} == {None, *OBJECTS}
    assert {scene.colour for scene in scenes} == {None, *COLOURS}
    assert {scene.position for scene in scenes} == set(POSITIONS)
    share = np.mean([scene.style == "drawing" for scene in scenes])
    assert 0.07 < share < 0.13
    four = ("monumental", "dramatic", "atmospheric", "transcendent")
    assert np.mean([scene.moods == four for scene in scenes]) > 0.05


def test_captions_are_true_and_varied():
    words = {
        *OBJECTS,
        *COLOURS,
        *MOODS,
        "painting",
        "drawing",
        "tiny",
        "huge",
        "left",
        "right",
        "moon",
        "sun",
    }
    seen, lengths = set(), set()
    for index in range(2500):
        scene = sample_scene(4, index)
        text = caption(scene, np.random.default_rng(index))
        true = {scene.object, scene.colour, scene.style, scene.size, scene.position, scene.body, *scene.moods}
        said = set(text.replace(",", "").replace("green hills", "hills").split())
        assert said & words <= true, (text, scene)
        seen.add(text)
        lengths.add(len(text.split()))
    assert "" in seen
    assert lengths >= set(range(16))
    assert seen >= {
        "monumental",
        "night",
        "sea",
        "drawing",
        "monumental, dramatic, atmospheric, transcendent",
    }
    assert len(seen) > 2000


def test_full_captions_name_everything():
    scene = Scene("sea", "night", "clear", "painting", "arch", "orange", "huge", "left", True, ("vivid",), 1)
    assert (
        full_caption(scene)
        == "a painting of a huge orange arch on the left by the sea at night, clear sky, moon, vivid"
    )


def test_each_hour_has_its_light():
    scene = replace(PLAIN, terrain="hills")

    def brightness(x):
        return x.mean((1, 2, 3))

    def warmth(x):
        half = x[:, 16:40]
        return half[..., 0].mean((1, 2)) - half[..., 2].mean((1, 2))

    light = {time: average(replace(scene, time=time), brightness) for time in TIMES}
    warm = {time: average(replace(scene, time=time), warmth) for time in TIMES}
    assert light["night"] < 0.6 * min(light[time] for time in TIMES if time != "night")
    assert warm["dusk"] > warm["dawn"] > warm["noon"]


def test_each_weather_does_what_it_says():
    def contrast(x):
        return x.std((1, 2)).mean(-1)

    def pale(x):
        return x[:, 48:].min(-1).mean((1, 2))

    def blue(x):
        return x[:, :16, :, 2].mean((1, 2)) - x[:, :16, :, 0].mean((1, 2))

    clear = PLAIN
    assert average(replace(clear, weather="foggy"), contrast) < 0.7 * average(clear, contrast)
    assert average(replace(clear, weather="snowy"), pale) > 2 * average(clear, pale)
    assert average(replace(clear, weather="cloudy"), blue) < average(clear, blue) - 0.1
    stormy = replace(clear, weather="stormy")
    assert average(stormy, lambda x: x.mean((1, 2, 3))) < average(clear, lambda x: x.mean((1, 2, 3))) - 0.1
    bolt = average(stormy, lambda x: (x[:, :36].min(-1).max(2)).mean(1))
    assert bolt > 0.6


@pytest.mark.parametrize(
    ("mood", "statistic", "sign"),
    [
        ("dramatic", "corners", -1),
        ("transcendent", "beam", 1),
        ("vivid", "saturation", 1),
        ("desolate", "saturation", -1),
        ("serene", "roughness", -1),
    ],
)
def test_moods_are_seen(mood, statistic, sign):
    with_mood, without = (
        average(replace(PLAIN, object="castle", moods=moods, time="dawn"), lambda x: statistics(x)[statistic])
        for moods in ((mood,), ())
    )
    assert sign * (with_mood - without) > 0.05 * abs(without)


def test_monumental_lowers_the_horizon_and_enlarges():
    def changed(scene):
        bare = unit(replace(scene, object=None, size="huge" if scene.size else ""))
        return (np.abs(unit(scene) - bare).max(-1) > 0.1).mean()

    usual = replace(PLAIN, object="monolith", colour="red")
    grand = replace(usual, size="huge", moods=("monumental",))
    assert changed(grand) > 2 * changed(usual)


def test_atmosphere_veils_the_distance():
    def far(x):
        return x[:, 36:48].std((1, 2)).mean(-1)

    scene = replace(PLAIN, terrain="city", time="dawn")
    assert average(replace(scene, moods=("atmospheric",)), far) < 0.75 * average(scene, far)


@pytest.mark.parametrize("colour", list(COLOURS))
def test_colours_are_seen(colour):
    scene = replace(PLAIN, terrain="dunes", object="tower", size="huge")
    other = "blue" if colour != "blue" else "red"
    share = average(replace(scene, colour=colour), lambda x: colour_excess(x, colour))
    assert share > average(replace(scene, colour=other), lambda x: colour_excess(x, colour)) + 0.05


@pytest.mark.parametrize("thing", OBJECTS)
def test_objects_stand_where_the_scene_says(thing):
    centres, areas = {}, {}
    for position in POSITIONS:
        scene = replace(PLAIN, object=thing, colour="red", position=position)
        mask = np.abs(unit(scene) - unit(replace(scene, object=None, colour=None))).max(-1) > 0.15
        centres[position] = (np.arange(64) * mask).sum() / mask.sum()
        areas[position] = mask.mean()
    assert centres["left"] < centres[""] - 8 < centres[""] + 8 < centres["right"]
    sizes = {}
    for size in ("tiny", ""):
        scene = replace(PLAIN, object=thing, colour="red", size=size)
        sizes[size] = (
            np.abs(unit(scene) - unit(replace(scene, object=None, colour=None, size=""))).max(-1) > 0.15
        ).mean()
    assert sizes["tiny"] < 0.5 * sizes[""]


def test_styles_are_seen():
    scene = replace(PLAIN, object="house", time="dusk")
    grey = average(replace(scene, style="drawing"), lambda x: statistics(x)["saturation"])
    assert grey < 0.15 < average(scene, lambda x: statistics(x)["saturation"])
    difference = np.abs(unit(replace(scene, style="painting")) - unit(scene)).mean()
    assert 0.02 < difference < 0.3
