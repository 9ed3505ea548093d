"""The instrument against itself: pictures of the pocket's world, changed in ways whose measures are known."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from lightning_drift.assets import PHOTOS
from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.frozen_clip import FrozenClip
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.metric import MEASURES, WITHOUT_CLIP, DriftMetric
from lightning_drift.drift.verdict import DECIDING, Verdict, judge
from training.pocket.probes import PROBES
from training.pocket.world.render import render
from training.pocket.world.scene import Scene

PROMPTS = [probe.prompt for probe in PROBES[:9]]
SEEDS = range(4)
KEYS = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
ROLES: dict[str, Any] = dict.fromkeys(PROMPTS, "language") | {PROMPTS[0]: "dream"}
SETS = ("coffee", "galaxies", "nautilus")

Pictures = NDArray[Any]


@cache
def world() -> Pictures:
    """Pictures (9 prompts, 4 seeds, 64, 64, 3) as a perfectly obedient base model would draw them."""
    rows = []
    for probe in PROBES[:9]:
        for seed in SEEDS:
            scene = Scene(
                terrain=probe.terrain or "hills",
                time=probe.time or "noon",
                weather=probe.weather or "clear",
                style=probe.style or "photo",
                object=probe.object,
                colour=probe.colour,
                size="",
                position="",
                luminary=False,
                moods=probe.moods,
                seed=seed,
            )
            rows.append(render(scene, 64))
    return np.stack(rows).reshape(len(PROMPTS), len(SEEDS), 64, 64, 3)


@cache
def photos(name: str) -> Pictures:
    folder = PHOTOS / name
    files = sorted(folder.glob("*.jpg"))
    return np.stack([np.asarray(Image.open(f).convert("RGB").resize((64, 64))) for f in files])


@cache
def pocket_clip() -> FrozenClip:
    return FrozenClip.load("pocket")


def images(pictures: Pictures) -> list[Image.Image]:
    flat = np.ascontiguousarray(pictures.clip(0, 255).astype(np.uint8)).reshape(-1, *pictures.shape[-3:])
    return [Image.fromarray(picture) for picture in flat]


@cache
def known(name: str) -> tuple[Features, Features, torch.Tensor]:
    """Base, photos, and text embeddings."""
    return (
        Features.of(images(world()), pocket_clip()),
        Features.of(images(photos(name)), pocket_clip()),
        pocket_clip().embed_texts(PROMPTS),
    )


def measure(pictures: Pictures, name: str = "coffee") -> dict[str, Interval]:
    base, subject, texts = known(name)
    metric = DriftMetric(KEYS, ROLES, base, subject, texts)
    metric.update(range(len(KEYS)), Features.of(images(pictures), pocket_clip()))
    return metric.compute()


def values(pictures: Pictures, name: str = "coffee") -> dict[str, float]:
    found = measure(pictures, name)
    assert all(math.isfinite(x) for i in found.values() for x in (i.value, i.low, i.high))
    assert all(i.low <= i.value <= i.high for i in found.values())
    return {key: interval.value for key, interval in found.items()}


def verdict(pictures: Pictures, name: str) -> Verdict:
    return judge(measure(pictures, name))


# -- self-test ----------------------------------------------------------------------------------------------


def test_the_base_against_itself() -> None:
    found = measure(world())
    assert tuple(found) == MEASURES
    ones = {"language", "adherence", "retrieval", "spread", "diversity", "vendi"}
    for name, interval in found.items():
        if name != "clip_t":
            expected = 1.0 if name in ones else 0.0
            assert interval == Interval(expected, expected, expected), name
    assert judge(found).position == 0
    assert found["clip_t"].value > 0.2


def test_the_unit_of_drift_is_another_seed() -> None:
    found = values(np.roll(world(), 1, axis=1))
    for name in ("drift", "tilt", "colour"):
        assert found[name] == pytest.approx(1.0, abs=0.2)
    for name in ("language", "adherence", "spread", "diversity", "vendi"):
        assert found[name] == pytest.approx(1.0, abs=0.02)
    assert found["pull"] == pytest.approx(0.0, abs=0.01)
    assert found["drift_prompt"] < 0.3


def test_pictures_of_other_prompts_are_pure_forgetting() -> None:
    found = values(np.roll(world(), 1, axis=0))
    assert found["retrieval"] <= 0
    assert found["adherence"] < 0.1
    assert found["drift_prompt"] == pytest.approx(1.0, abs=0.1)
    assert found["diversity"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", SETS)
def test_blends_with_the_photos_go_along_the_corridor(name: str) -> None:
    found, zones = [], []
    for share in (0.0, 0.15, 0.3, 0.5, 0.75, 1.0):
        blend = (1 - share) * world() + share * photos(name)[None, :4]
        found.append(values(blend, name))
        zones.append(verdict(blend, name).zone)
    for measure_name, sign in (("pull", 1), ("drift_prompt", 1), ("palette_pull", 1), ("adherence", -1)):
        steps = np.diff([sign * each[measure_name] for each in found])
        assert (steps > -0.01).all(), measure_name
    assert found[-1]["pull"] > 0.9
    assert found[-1]["palette_pull"] == pytest.approx(1.0, abs=0.35)  # four of the eight photos
    assert found[-1]["copy"] == 1.0
    order = ["under-drifted", "dreaming", "forgetting", "cooked"]
    assert zones[0] == "under-drifted"
    assert zones[-1] == "cooked"
    assert "dreaming" in zones
    assert zones == sorted(zones, key=order.index)


@pytest.mark.parametrize("name", SETS)
def test_degenerate_models_get_the_right_verdict(name: str) -> None:
    random, shape = np.random.default_rng(0), world().shape
    assert verdict(world(), name).zone == "under-drifted"
    collapsed = verdict(np.broadcast_to(photos(name)[0], shape), name)
    assert (collapsed.zone, collapsed.position) == ("cooked", 100.0)
    for pictures in (
        random.integers(0, 256, shape),
        np.full(shape, 128),
        np.zeros(shape),
        np.broadcast_to(np.array([200, 30, 60]), shape),
        np.broadcast_to(random.integers(0, 256, shape[2:]), shape),
    ):
        assert verdict(pictures, name).zone == "broken"
    # changes of the size of a dream that do not head to the photos
    assert verdict(np.roll(world(), 1, axis=1), name).zone == "broken"


def test_collapse_shows_in_every_number_of_variety() -> None:
    found = values(np.broadcast_to(photos("coffee")[0], world().shape))
    for name in ("diversity", "spread", "vendi", "adherence", "retrieval"):
        assert found[name] == pytest.approx(0.0, abs=1e-6)
    assert found["copy"] == 1.0
    assert found["likeness"] == pytest.approx(1.0)
    assert found["pull"] > 0.9


def test_colour_and_composition_are_told_apart() -> None:
    warm = world().astype(float)
    warm[..., 0] += 18
    warm[..., 2] -= 18
    tinted, mirrored = values(warm), values(world()[:, :, :, ::-1])
    assert tinted["delta_e"] > 5
    assert tinted["tilt"] < 0.05
    assert tinted["adherence"] > 0.8
    assert mirrored["delta_e"] < 0.01
    assert mirrored["tilt"] > 0.5


def test_one_picture_a_prompt_is_no_collapse_of_language() -> None:
    found = values(np.broadcast_to(world()[:, :1], world().shape))
    assert found["diversity"] == pytest.approx(0.0, abs=1e-6)
    assert found["adherence"] > 0.9
    assert found["spread"] > 0.8


# -- which prompts count ------------------------------------------------------------------------------------


def test_dream_prompts_count_for_the_drift_and_not_for_language() -> None:
    changed = world().copy()
    changed[0] = photos("coffee")[:4]
    found = values(changed)
    for name in ("language", "adherence", "retrieval", "spread", "vendi"):
        assert found[name] == 1.0
    # one of nine prompts went all the way
    assert found["copy"] == pytest.approx(1 / 9)
    for name in ("drift_prompt", "pull", "tilt", "palette_pull"):
        assert found[name] > 0.05


def test_prompts_weigh_the_same_whatever_their_seeds() -> None:
    base, subject, texts = known("coffee")
    keys = [key for key in KEYS if key[1] < 2 or key[0] == PROMPTS[0]]  # four dream seeds, two of language
    index = [KEYS.index(key) for key in keys]
    now = Features.of(images(np.broadcast_to(photos("coffee")[0], (4, 64, 64, 3))), pocket_clip())
    metric = DriftMetric(keys, ROLES, base[index], subject, texts)
    metric.update(range(len(keys)), base[index])
    metric.update([keys.index((PROMPTS[0], seed)) for seed in SEEDS], now)
    assert metric.compute()["copy"].value == pytest.approx(1 / 9)


# -- the same pictures, the same numbers --------------------------------------------------------------------


def test_order_batches_and_repetitions_do_not_matter() -> None:
    base, subject, texts = known("coffee")
    changed = 0.7 * world() + 0.3 * photos("coffee")[None, :4]
    now = Features.of(images(changed), pocket_clip())
    expected = measure(changed)
    metric = DriftMetric(KEYS, ROLES, base, subject, texts)
    order = torch.randperm(len(KEYS), generator=torch.Generator().manual_seed(0))
    for index in (*order.split(5), order[:3]):
        metric.update(index, now[index])
    assert metric.compute() == expected
    metric.reset()
    metric.update(order[1:], now[order[1:]])
    with pytest.raises(ValueError, match="1 pictures are missing, the first is"):
        metric.compute()


def test_the_order_of_keys_and_roles_does_not_matter() -> None:
    base, subject, texts = known("coffee")
    changed = 0.7 * world() + 0.3 * photos("coffee")[None, :4]
    order = torch.randperm(len(KEYS), generator=torch.Generator().manual_seed(1)).tolist()
    roles = dict(reversed(ROLES.items()))
    metric = DriftMetric([KEYS[i] for i in order], roles, base[order], subject, texts.flip(0))
    metric.update(range(len(KEYS)), Features.of(images(changed), pocket_clip())[order])
    expected = measure(changed)
    for name, interval in metric.compute().items():
        assert interval.value == pytest.approx(expected[name].value, abs=1e-9), name
        assert interval.low == pytest.approx(expected[name].low, abs=1e-9), name


def _rank(rank: int, folder: str) -> None:
    """Two processes with unequal, overlapping parts of the pictures."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    parts = {
        name: Features.from_tensors(load_file(f"{folder}/{name}.safetensors"))
        for name in ("base", "photos", "now")
    }
    metric = DriftMetric(KEYS, ROLES, parts["base"], parts["photos"], torch.load(f"{folder}/texts.pt"))
    for round_, mine in enumerate((list(range(25)) if rank == 0 else list(range(20, 36)), None)):
        if mine is None:  # everything on the second rank, nothing on the first
            mine = [] if rank == 0 else list(range(36))
        metric.reset()
        metric.update(mine, parts["now"][mine])
        found = {name: vars(interval) for name, interval in metric.compute().items()}
        Path(f"{folder}/rank{rank}-{round_}.json").write_text(json.dumps(found))
    if rank == 1:  # one process has all pictures and does not wait for the other
        alone = DriftMetric(
            KEYS, ROLES, parts["base"], parts["photos"], torch.load(f"{folder}/texts.pt"), sync=False
        )
        alone.update(range(36), parts["now"])
        assert alone.compute() == metric.compute()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_two_ranks_give_the_numbers_of_one(tmp_path: Path) -> None:
    changed = 0.7 * world() + 0.3 * photos("coffee")[None, :4]
    base, subject, texts = known("coffee")
    now = Features.of(images(changed), pocket_clip())
    for name, features in (("base", base), ("photos", subject), ("now", now)):
        save_file(features.tensors(), tmp_path / f"{name}.safetensors")
    torch.save(texts, tmp_path / "texts.pt")
    torch.multiprocessing.start_processes(_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    expected = {name: vars(interval) for name, interval in measure(changed).items()}
    for rank in (0, 1):
        for round_ in (0, 1):
            assert json.loads((tmp_path / f"rank{rank}-{round_}.json").read_text()) == expected


# -- without a CLIP, and bad arguments ----------------------------------------------------------------------


def test_without_clip_what_needs_none_is_the_same() -> None:
    changed = 0.7 * world() + 0.3 * photos("coffee")[None, :4]
    expected = measure(changed)
    metric = DriftMetric(KEYS, ROLES, Features.of(images(world())), Features.of(images(photos("coffee"))))
    metric.update(range(len(KEYS)), Features.of(images(changed)))
    found = metric.compute()
    assert set(found) == set(WITHOUT_CLIP)
    assert all(found[name] == expected[name] for name in WITHOUT_CLIP)
    assert not set(DECIDING) <= set(found)
    assert metric.doubts() == []


def test_a_base_that_follows_no_prompt_is_doubted_and_measured_without_infinities() -> None:
    _, subject, texts = known("coffee")
    blank = np.full_like(world(), 90)
    base = Features.of(images(blank), pocket_clip())
    metric = DriftMetric(KEYS, ROLES, base, subject, texts)
    assert "can hardly tell whether language is lost" in metric.doubts()[0]
    metric.update(range(len(KEYS)), base)
    found = metric.compute()
    assert (found["language"].value, found["drift"].value, found["tilt"].value) == (1.0, 0.0, 0.0)
    metric.reset()
    metric.update(range(len(KEYS)), Features.of(images(world()), pocket_clip()))
    for interval in metric.compute().values():
        assert all(math.isfinite(x) for x in (interval.value, interval.low, interval.high))


def test_doubts_about_few_seeds() -> None:
    base, subject, texts = known("coffee")
    assert DriftMetric(KEYS, ROLES, base, subject, texts).doubts() == []
    index = [i for i, (_, seed) in enumerate(KEYS) if seed < 2]
    metric = DriftMetric([KEYS[i] for i in index], ROLES, base[index], subject, texts)
    assert "only 2 seeds" in metric.doubts()[0]


def test_what_cannot_be_measured_is_said() -> None:
    base, subject, texts = known("coffee")
    with pytest.raises(UserError, match="has 1 seed; give two or more"):
        DriftMetric(KEYS[:-3], ROLES, base[range(len(KEYS) - 3)], subject, texts)
    with pytest.raises(UserError, match="0 language prompt"):
        DriftMetric(KEYS, dict.fromkeys(PROMPTS, "dream"), base, subject, texts)
    with pytest.raises(UserError, match="no photos"):
        DriftMetric(KEYS, ROLES, base, subject[[]], texts)
    with pytest.raises(ValueError, match="all of them have CLIP embeddings, or none"):
        DriftMetric(KEYS, ROLES, base, subject, None)
    with pytest.raises(ValueError, match="different prompts"):
        DriftMetric(KEYS, {"other": "language"}, base, subject, texts)
    metric = DriftMetric(KEYS, ROLES, base, subject, texts)
    with pytest.raises(ValueError, match="different features"):
        metric.update([0], Features.of(images(world()[:1, :1])))
    with pytest.raises(ValueError, match="2 indices for 1 pictures"):
        metric.update([0, 1], base[[0]])


def test_a_network_of_pictures_compares_them_in_the_clips_place() -> None:
    """Vectors of pictures decide what has no prompt in it, and nothing else."""
    base, subject, texts = known("coffee")
    now = Features.of(images(np.roll(world(), 1, axis=1)), pocket_clip())
    turned = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0))).Q

    def compared(some: Features) -> Features:
        return replace(some, image=torch.nn.functional.normalize(some.lab.repeat(1, 3) @ turned, dim=1))

    def found(before: Features, photos: Features, after: Features, words: Any) -> dict[str, Interval]:
        metric = DriftMetric(KEYS, ROLES, before, photos, words)
        metric.update(range(len(KEYS)), after)
        return metric.compute()

    both = found(compared(base), compared(subject), compared(now), texts)
    by_clip = found(base, subject, now, texts)
    alone = [replace(compared(some), clip=None) for some in (base, subject, now)]
    by_pictures = found(*alone, None)
    words = {"language", "adherence", "retrieval", "clip_t"}
    assert tuple(both) == MEASURES
    assert all(both[name] == by_clip[name] for name in {*words, "tilt", "copy"})
    seen = {"drift", "drift_prompt", "pull", "aim", "coherence", "diversity"}
    assert all(both[name] == by_pictures[name] != by_clip[name] for name in seen)
    assert both["spread"] != by_clip["spread"]
    with pytest.raises(ValueError, match="both have embeddings of pictures alone, or none"):
        DriftMetric(KEYS, ROLES, compared(base), subject, texts)
    assert torch.equal(Features.from_tensors(compared(base).tensors()).image, compared(base).image)  # type: ignore[arg-type]
