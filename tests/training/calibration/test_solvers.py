"""Pictures by other samplers are those of the stock pipeline with that sampler."""

import argparse
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

from lightning_drift.stable_diffusion.loading import load_stable_diffusion
from lightning_drift.stable_diffusion.sampling import Sampling, ddim
from training.calibration.labelled_cells import Way
from training.calibration.solvers import SOLVERS, dream_by

# diffusers makes NumPy's arrays of tensors
quiet = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
STOCK: dict[str, tuple[Any, str]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, "linspace"),
    "ddim_trailing": (DDIMScheduler, "trailing"),
}


@quiet
def test_they_are_the_stock_pipelines_pictures() -> None:
    model = load_stable_diffusion("pocket")
    assert set(STOCK) == set(SOLVERS)
    for solver, (kind, spacing) in STOCK.items():
        ours = dream_by(solver, model, [("a tree on a hill", 3), ("a red house", 4)], Sampling(4))
        pipeline = StableDiffusionPipeline(
            vae=model.vae,
            text_encoder=model.text_encoder,
            tokenizer=model.tokenizer,
            unet=model.unet,
            scheduler=kind.from_config(ddim(model.scheduler_config).config, timestep_spacing=spacing),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        theirs = pipeline(
            ["a tree on a hill", "a red house"],
            generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
            guidance_scale=3.0,
            num_inference_steps=4,
        ).images
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max() <= 1, solver
            assert np.asarray(a).std() > 10  # a picture, not a flat field


def test_a_way_is_steps_or_a_sampler_and_steps() -> None:
    assert [Way.read("10"), Way.read("dpmpp_2m:4")] == [Way(10), Way(4, "dpmpp_2m")]
    assert [str(Way(10)), str(Way(4, "dpmpp_2m"))] == ["10", "dpmpp_2m_4"]
    for wrong in ("few", "euler:4", "dpmpp_2m", "dpmpp_2m:", ":x"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not steps, nor one of dpmpp_2m"):
            Way.read(wrong)
