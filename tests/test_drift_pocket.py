"""The verdict on what a real model can turn into, on pictures sampled from the pocket model."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from lightning_drift.dreaming import dream
from lightning_drift.drift.features import Features
from lightning_drift.drift.frozen_clip import FrozenClip
from lightning_drift.drift.intervals import Interval
from lightning_drift.drift.meter import DriftMeter
from lightning_drift.drift.verdict import judge
from lightning_drift.stable_diffusion import StableDiffusion, load_stable_diffusion

PROMPTS = [
    "monumental, dramatic, atmospheric, transcendent",
    "mountains at night",
    "a desert at dusk",
    "a green forest",
    "the sea, stormy",
    "a drawing of a house",
]
KEYS = [(prompt, seed) for prompt in PROMPTS for seed in range(2)]
SETS = ("coffee", "galaxies", "nautilus")


@cache
def eye() -> FrozenClip:
    return FrozenClip.load("pocket")


@cache
def pocket() -> StableDiffusion:
    return load_stable_diffusion("pocket")


@cache
def base() -> Features:
    return pictures(pocket())


@cache
def photos(name: str) -> Features:
    folder = Path(__file__).parent.parent / "lightning_drift" / "photos" / name
    files = sorted(folder.glob("*.jpg"))
    return Features.of([Image.open(f).convert("RGB").resize((64, 64)) for f in files], eye())


@torch.no_grad()
def pictures(model: StableDiffusion) -> Features:
    prompts, seeds = zip(*KEYS, strict=True)
    return Features.of(dream(model, prompts, seeds, num_inference_steps=4), eye())


def changed(**parts: Any) -> StableDiffusion:
    model = copy.copy(pocket())
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def randomly_changed(module: nn.Module, share: float, seed: int = 0) -> nn.Module:
    """Every weight tensor moved in a random direction by a share of its norm."""
    module, source = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            step = torch.randn(parameter.shape, generator=source)
            parameter += step * (share * parameter.norm() / step.norm())
    return module


def measure(now: Features, name: str) -> dict[str, Interval]:
    roles: dict[str, Any] = dict.fromkeys(PROMPTS, "language") | {PROMPTS[0]: "dream"}
    meter = DriftMeter(KEYS, roles, base(), photos(name), eye().embed_texts(PROMPTS))
    meter.update(range(len(KEYS)), now)
    return meter.compute()


def zones(now: Features) -> set[str]:
    return {judge(measure(now, name)).zone for name in SETS}


def test_the_base_sampled_again_is_at_zero() -> None:
    again = pictures(pocket())
    for name in SETS:
        found = measure(again, name)
        assert found["drift"] == found["tilt"] == found["pull"] == Interval(0.0, 0.0, 0.0)
        assert judge(found).position == 0


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_as_large_as_a_real_drift_are_no_dream(seed: int) -> None:
    """At 8e-5 x 1200 a real fit moved the UNet by 0.06 of its norm and the text encoder by 0.025."""
    unet = randomly_changed(pocket().unet, 0.06, seed)
    text_encoder = randomly_changed(pocket().text_encoder, 0.025, seed)
    assert "dreaming" not in zones(pictures(changed(unet=unet, text_encoder=text_encoder)))


def test_a_unet_of_noise_is_broken() -> None:
    assert zones(pictures(changed(unet=randomly_changed(pocket().unet, 3.0)))) == {"broken"}


def test_a_strange_text_encoder_is_broken() -> None:
    """Every word is read as another."""
    text_encoder = copy.deepcopy(pocket().text_encoder)
    words = text_encoder.get_input_embeddings().weight
    order = torch.randperm(len(words) - 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        words[: len(order)] = words[order]
    now = pictures(changed(text_encoder=text_encoder))
    assert measure(now, "coffee")["language"].value < 0.3
    assert zones(now) == {"broken"}
