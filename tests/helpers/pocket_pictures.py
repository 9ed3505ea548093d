"""Pictures of the pocket and of the bundled photos, as the drift measures see them; made once a process."""

from functools import cache

import torch
from PIL import Image

from lightning_drift.assets import PHOTOS
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.frozen_clip import FrozenClip
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_stable_diffusion
from lightning_drift.stable_diffusion.sampling import Sampling, dream

PROMPTS = [
    "monumental, dramatic, atmospheric, transcendent",
    "mountains at night",
    "a desert at dusk",
    "a green forest",
    "the sea, stormy",
    "a drawing of a house",
]


KEYS = [(prompt, seed) for prompt in PROMPTS for seed in range(2)]


@cache
def pocket_clip() -> FrozenClip:
    return FrozenClip.load("pocket")


@cache
def pocket() -> StableDiffusion:
    return load_stable_diffusion("pocket")


@cache
def base() -> Features:
    return pictures(pocket())


@cache
def photos(name: str) -> Features:
    folder = PHOTOS / name
    files = sorted(folder.glob("*.jpg"))
    return Features.of([Image.open(f).convert("RGB").resize((64, 64)) for f in files], pocket_clip())


@torch.no_grad()
def pictures(model: StableDiffusion) -> Features:
    prompts, seeds = zip(*KEYS, strict=True)
    return Features.of(dream(model, prompts, seeds, Sampling(num_inference_steps=4)), pocket_clip())
