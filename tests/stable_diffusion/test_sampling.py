"""Dreams against the stock pipeline, and what must not change a picture."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from lightning_drift.stable_diffusion.loading import StableDiffusion, load_stable_diffusion
from lightning_drift.stable_diffusion.sampling import Sampling, ddim, dream, native_size, starting_noise

PROMPTS = ["a tree on a hill", "monumental, dramatic, atmospheric, transcendent"]


@pytest.fixture(scope="module")
def pocket() -> StableDiffusion:
    return load_stable_diffusion("pocket")


def stock(model: StableDiffusion) -> StableDiffusionPipeline:
    """The stock pipeline with the essay's scheduler."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def difference(left: Image.Image, right: Image.Image) -> int:
    return int(np.abs(np.asarray(left, dtype=int) - np.asarray(right, dtype=int)).max())


@pytest.mark.parametrize(("guidance", "negative"), [(3.0, ""), (7.5, "blurry, night"), (1.0, ""), (0.0, "")])
def test_dreams_are_the_stock_pipelines_pictures(
    pocket: StableDiffusion, guidance: float, negative: str
) -> None:
    ours = dream(
        pocket,
        PROMPTS,
        [3, 4],
        Sampling(negative_prompt=negative, guidance_scale=guidance, num_inference_steps=12),
    )
    theirs = stock(pocket)(
        PROMPTS,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (3, 4)],
        guidance_scale=guidance,
        negative_prompt=[negative] * 2,
        num_inference_steps=12,
    ).images
    assert [difference(a, b) for a, b in zip(ours, theirs, strict=True)] <= [1, 1]
    assert np.asarray(ours[0]).std() > 10  # a picture, not a flat field


def test_a_picture_does_not_depend_on_its_neighbours(pocket: StableDiffusion) -> None:
    together = dream(pocket, [*PROMPTS, PROMPTS[0]], [3, 4, 5], Sampling(num_inference_steps=6))
    alone = [
        dream(pocket, [p], [s], Sampling(num_inference_steps=6))[0]
        for p, s in zip(PROMPTS, (3, 4), strict=True)
    ]
    assert max(difference(a, b) for a, b in zip(together, alone, strict=False)) <= 1
    assert difference(together[0], together[2]) > 50  # another seed is another picture


def test_the_picture_size_is_an_option(pocket: StableDiffusion) -> None:
    assert native_size(pocket) == 64
    (image,) = dream(pocket, ["a lake"], [0], Sampling(num_inference_steps=2, width=100, height=52))
    assert image.size == (100, 52)


def test_the_schedule_is_the_models_own() -> None:
    config = {
        "beta_start": 0.001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction",
    }
    scheduler = ddim(config | {"clip_sample": True, "set_alpha_to_one": True})
    assert scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(scheduler.betas, torch.linspace(0.001, 0.02, 1000))
    assert not scheduler.config.clip_sample
    assert not scheduler.config.set_alpha_to_one


def test_noise_is_the_seeds_own_and_no_global_generator_moves(pocket: StableDiffusion) -> None:
    before = torch.get_rng_state()
    noise = starting_noise(11, (1, 4, 8, 8))
    dream(pocket, ["x"], [11], Sampling(num_inference_steps=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(noise, torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(11)))


def test_a_long_prompt_is_cut_not_refused(pocket: StableDiffusion) -> None:
    long: Any = "a very long prompt about mountains and the sea, " * 20
    assert len(dream(pocket, [long], [0], Sampling(num_inference_steps=1))) == 1
