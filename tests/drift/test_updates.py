"""Update norms: they are those of the sampler's steps, and unknown where nobody saw them."""

import math

import pytest
import torch
from helpers.paths import DATA
from PIL import Image

from lightning_drift.drift.measures.updates import updates
from lightning_drift.stable_diffusion.loading import load_stable_diffusion
from lightning_drift.stable_diffusion.prompt_states import encode_prompts
from lightning_drift.stable_diffusion.sampling import (
    UPDATES,
    Sampling,
    ddim,
    dream,
    predict_noise,
    starting_noise,
)


def test_they_are_what_the_steps_change() -> None:
    model = load_stable_diffusion(str(DATA / "tiny_sd"))
    (image,) = dream(model, ["a house"], [3], Sampling(num_inference_steps=3, guidance_scale=2.0))
    scheduler = ddim(model.scheduler_config)
    scheduler.set_timesteps(3)
    latents = starting_noise(3, (1, 4, 8, 8))
    changed = []
    with torch.no_grad():
        states = encode_prompts(model, ["", "a house"])
        for timestep in scheduler.timesteps:
            noise = predict_noise(model, latents, timestep, states, torch.full((1, 1, 1, 1), 2.0))
            after = scheduler.step(noise, timestep, latents).prev_sample
            changed.append(float(((after - latents) ** 2).mean()))
            latents = after
    assert image.info[UPDATES] == pytest.approx(sum(changed) / 3, rel=1e-4)
    assert updates([image]) == pytest.approx(sum(changed) / 3, rel=1e-4)


def test_pictures_weigh_the_same_and_one_from_disk_tells_nothing() -> None:
    pictures = [Image.new("RGB", (8, 8)) for _ in range(2)]
    assert updates(pictures) is None
    pictures[0].info[UPDATES] = 0.25
    assert updates(pictures) is None
    pictures[1].info[UPDATES] = 0.04
    assert updates(pictures) == pytest.approx(math.sqrt(0.25 * 0.04))
