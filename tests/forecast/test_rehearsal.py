"""What a rehearsal counts is what a step allocates, and the sums for Stable Diffusion v1.5."""

from dataclasses import replace
from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.allocations import allocated, random_weights

from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.forecast.base import Base
from lightning_drift.forecast.ledger import total
from lightning_drift.forecast.rehearsal import Rehearsal, Scene, rehearse
from lightning_drift.stable_diffusion.loading import StableDiffusion, empty_opened, open_pipeline
from lightning_drift.stable_diffusion.sd15 import sd15_config, sd15_models
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer

GIB = 2**30


def middle(tiny_sd: str) -> StableDiffusion:
    """A network of ten times the weights, without them."""
    opened = open_pipeline(tiny_sd)
    unet = {**opened.configs["unet"], "block_out_channels": [96, 192]}
    return empty_opened(replace(opened, configs={**opened.configs, "unet": unet}))


def sd15(mode: str, optimizer: Any = bitsandbytes.optim.AdamW8bit) -> Rehearsal:
    base = Base(
        StableDiffusion(
            **sd15_models(), tokenizer=sd15_tokenizer(), scheduler_config=sd15_config("scheduler"), source=""
        )
    )
    return rehearse(DreamBooth("", memory=mode, optimizer=optimizer), base.model, Scene())


@pytest.mark.parametrize(
    ("mode", "least", "most"),
    [
        ("full", 9.0, 9.4),
        ("split", 7.3, 7.7),
        ("deferred", 6.5, 6.8),
        ("recompute", 6.1, 6.4),
        ("paged", 4.3, 4.8),
    ],
)
def test_the_peaks_of_stable_diffusion_15(mode: str, least: float, most: float) -> None:
    told = sd15(mode)
    step = told.peaks["step"]
    assert least < total(step) / GIB < most
    masters = 4 * 982_581_444
    kept = step["weights"] + step.get("remainders", 0)
    assert kept == pytest.approx(masters, rel=1e-3)
    assert (step.get("remainders", 0) > 0) == (mode != "full")
    arithmetic = sum(flop for flop, _ in told.work["step"]) / 1e12
    assert arithmetic == pytest.approx(2.51, abs=0.01) if mode == "full" else arithmetic > 2.50


def test_adamw_on_a_gpu_updates_all_tensors_at_once() -> None:
    step = sd15("full", torch.optim.AdamW).peaks["step"]
    # Two float32 states, and the square roots of one of them while all weights are updated.
    assert step["optimizer state"] == pytest.approx(8 * 982_581_444, rel=1e-3)
    assert step["other"] > 3 * GIB


@pytest.mark.parametrize(
    ("arguments", "most"), [({"foreach": False}, 1.02), ({}, 1.03)], ids=["loop", "fused"]
)
def test_float32_on_the_pocket_is_what_a_step_allocates(arguments: dict[str, Any], most: float) -> None:
    """A rehearsal updates the tensors one by one; the fused update needs no memory beside the largest."""
    scene, opened = Scene("cpu", "32-true", side=64), open_pipeline("pocket")
    module = DreamBooth("pocket", optimizer_args=arguments)
    forecast = total(rehearse(module, empty_opened(opened), scene).peaks["step"])
    taken = allocated(module, random_weights(empty_opened(opened)), scene)
    print(f"float32 AdamW {arguments}: forecast / allocated {forecast / taken:.3f}")
    assert 0.98 <= forecast / taken < most


@pytest.mark.parametrize("mode", MEMORY_MODES)
@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        ("middle", torch.optim.AdamW),
        ("middle", bitsandbytes.optim.AdamW8bit),
        ("pocket", bitsandbytes.optim.AdamW8bit),
    ],
)
def test_every_mode_takes_what_it_is_forecast_to_take(
    tiny_sd: str, mode: str, model: str, optimizer: Any
) -> None:
    def make() -> StableDiffusion:
        return middle(tiny_sd) if model == "middle" else empty_opened(open_pipeline("pocket"))

    scene = Scene("cpu", "16-mixed", side=64 if model == "pocket" else 32)
    module = DreamBooth("", memory=mode, optimizer=optimizer)
    told = rehearse(module, make(), scene).peaks["step"]
    if mode == "paged":  # the CPU has no other memory to page to: what is spared is the states
        others = DreamBooth("", memory="recompute", optimizer=optimizer)
        other = rehearse(others, make(), scene).peaks["step"]
        spared = other["optimizer state"] - told["optimizer state"]
        assert spared > 0.8 * other["optimizer state"]
        largest = max(p.numel() for p in make().unet.parameters())
        size = 4 if optimizer is torch.optim.AdamW else 1
        assert total(told) == pytest.approx(total(other) - spared + 2 * size * largest, rel=0.07)
    else:
        taken = allocated(module, random_weights(make()), scene)
        print(f"{model}, {optimizer.__name__}, {mode}: forecast / allocated {total(told) / taken:.3f}")
        assert total(told) == pytest.approx(taken, rel=0.07)


def test_a_rehearsal_leaves_module_and_model_as_they_were(tiny_sd: str) -> None:
    model, module = middle(tiny_sd), DreamBooth("", memory="recompute")
    before = {name: (p.dtype, p.shape) for name, p in model.unet.named_parameters()}
    assert rehearse(module, model, Scene(side=32)).peak > 0
    assert before == {name: (p.dtype, p.shape) for name, p in model.unet.named_parameters()}
    assert not [*module.parameters()]
    assert module.stable_diffusion is None
