"""Loss curves: which photos they are of, closed forms, and that milestones and the steps between agree."""

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.loss_curve import KINDS, loss_curves, of_curve, on_curve
from lightning_drift.drift.measures.noise_levels import NOISE_LEVELS, level_tag
from lightning_drift.drift.photo_base import PhotoBase, photo_settings
from lightning_drift.drift.photo_evaluator import MOST_HELD_OUT, PhotoEvaluator
from lightning_drift.fit.dreambooth import DreamBooth

LEVELS = len(NOISE_LEVELS)
PHOTOS = [Image.radial_gradient("L").rotate(40 * i).resize((64, 64)).convert("RGB") for i in range(7)]


def test_the_base_against_itself_is_exactly_neutral() -> None:
    base = {kind: torch.rand(LEVELS, dtype=torch.float64) for kind in KINDS}
    assert set(loss_curves(base, base).values()) == {1.0}
    assert set(loss_curves(base, {"trained": base["trained"]})) == {
        "loss_trained",
        *(level_tag("trained", level) for level in NOISE_LEVELS),
    }


def test_points_are_geometric_means_of_ratios() -> None:
    base = {kind: torch.tensor([4.0, 2.0, 1.0, 0.5]) for kind in KINDS}
    ratios = {"trained": torch.tensor([0.1, 0.2, 0.4, 0.5]), "held_out": torch.tensor([0.9, 1.0, 0.7, 0.8])}
    found = loss_curves(base, {kind: base[kind] * ratios[kind] for kind in KINDS})
    means = {}
    for kind in KINDS:
        means[kind] = math.prod(ratios[kind].tolist()) ** (1 / LEVELS)
        assert found[f"loss_{kind}"] == pytest.approx(means[kind])
        for level, ratio in zip(NOISE_LEVELS, ratios[kind].tolist(), strict=True):
            assert found[level_tag(kind, level)] == pytest.approx(ratio)
    assert found["memorising"] == pytest.approx(means["held_out"] / means["trained"])
    assert (
        loss_curves({"trained": torch.zeros(LEVELS)}, {"trained": torch.zeros(LEVELS)})["loss_trained"] == 1
    )


def test_few_photos_take_turns_and_many_are_the_first() -> None:
    assert [on_curve(count)[0].tolist() for count in (1, 2, 3, 9)] == [
        [0, 0, 0, 0],
        [0, 1, 0, 1],
        [0, 1, 2, 0],
        [0, 1, 2, 3],
    ]
    values = torch.arange(3 * LEVELS).view(3, LEVELS)
    assert of_curve(values).tolist() == [values[level % 3, level].item() for level in range(LEVELS)]


def test_a_milestones_point_is_what_the_steps_between_measure(tiny_sd: str) -> None:
    module = DreamBooth(tiny_sd, instance_prompt="a photo of sks cup")
    module.configure_model()
    evaluator, other = PhotoEvaluator(), PhotoEvaluator()
    seen: list[int] = []
    module.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    base = evaluator.base({}, PHOTOS[:5], PHOTOS[5:], module, nullcontext)
    asked = len(seen)
    same = evaluator.of_base(base)
    assert len(seen) == asked  # nothing is asked again
    assert (same.loss.value, same.held_out and same.held_out.value) == (1.0, 1.0)
    assert same.explaining.pop("departure") == 0.0
    assert set(same.explaining.values()) == {1.0}
    again = evaluator.milestone(base, module, nullcontext)
    assert again.explaining.pop("departure") == 0.0
    assert again.explaining == same.explaining
    with torch.no_grad():
        for number, weight in enumerate(module.unet.parameters()):
            weight.mul_(1 + 0.03 * math.sin(number))
    seen.clear()
    milestone, apart = (each.milestone(base, module, nullcontext) for each in (evaluator, other))
    assert sum(seen) == 2 * (LEVELS * 7 + 8)
    assert milestone == apart
    assert evaluator.loss(base, module, nullcontext) == milestone.loss
    seen.clear()
    between = evaluator.between(base, module, nullcontext, trained=True)
    assert seen == [LEVELS, LEVELS]
    assert between == {tag: milestone.explaining[tag] for tag in between}
    assert set(milestone.explaining) - set(between) == {"prompt_force"}
    held_out = evaluator.between(base, module, nullcontext, trained=False)
    assert held_out == {tag: value for tag, value in between.items() if "held_out" in tag}
    assert milestone.held_out is not None
    errors = {level: milestone.explaining[level_tag("held_out", level)] for level in NOISE_LEVELS}
    assert min(errors.values()) < milestone.explaining["loss_held_out"] < max(errors.values())


def test_what_a_checkpoint_holds_comes_back_and_an_earlier_version_lacks_only_what_is_new(
    tiny_sd: str,
) -> None:
    module = DreamBooth(tiny_sd)
    module.configure_model()
    base = PhotoEvaluator().base({"format": 1}, PHOTOS[:2], PHOTOS[2:], module, nullcontext)
    assert base.held_out is not None
    assert len(base.held_out) == MOST_HELD_OUT
    state = base.state()
    again = PhotoBase.from_state(state)
    assert again.state()["tensors"].keys() == state["tensors"].keys()
    assert all(
        torch.equal(again.state()["tensors"][name], state["tensors"][name]) for name in state["tensors"]
    )
    old = {name: state["tensors"][name] for name in ("latents", "input_ids", "errors")}
    reading = PhotoEvaluator().milestone(PhotoBase.from_state(state | {"tensors": old}), module, nullcontext)
    assert reading.held_out is None
    assert set(reading.explaining) == {"loss_trained", *(level_tag("trained", x) for x in NOISE_LEVELS)}


@pytest.mark.parametrize(
    "damage",
    [
        {"held_out": torch.zeros(2, 4, 8, 8)},  # without its errors
        {"held_out": torch.zeros(2, 4, 8, 8), "held_out_errors": torch.zeros(3, LEVELS)},
        {"held_out": torch.zeros(2, 4, 4, 4), "held_out_errors": torch.zeros(2, LEVELS)},
        {"predictions": torch.zeros(3, 4, 8, 8)},
        {"first_steps": torch.zeros(3)},
        {"others": torch.zeros(3)},
    ],
)
def test_damage_is_said(damage: dict[str, Any]) -> None:
    whole = {
        "latents": torch.zeros(3, 4, 8, 8),
        "input_ids": torch.ones(1, 5, dtype=torch.long),
        "errors": torch.ones(3, LEVELS),
    }
    PhotoBase.from_state({"settings": {"format": 1}, "tensors": whole})
    with pytest.raises(UserError, match="errors on the photos are damaged"):
        PhotoBase.from_state({"settings": {"format": 1}, "tensors": whole | damage})


def test_other_held_out_photos_are_another_setting() -> None:
    shared = ("model.pipeline", "the autoencoder", "the noise schedule", "trainer.precision", "device")
    settings, ids = dict.fromkeys(shared, "x"), torch.ones(1, 3, dtype=torch.long)
    without = photo_settings(settings, ids, PHOTOS[:2])
    assert "data.held_out" not in without  # so that what an earlier version kept still fits
    found = [photo_settings(settings, ids, PHOTOS[:2], PHOTOS[i : i + 1]) for i in (3, 4)]
    assert found[0] | {"data.held_out": ""} == found[1] | {"data.held_out": ""}
    assert found[0]["data.held_out"] != found[1]["data.held_out"]
