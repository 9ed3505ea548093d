"""What only a CUDA device can show of fits, dreams and drift: the recipe's precision, the CPU's numbers."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.bits import assert_same_bits
from helpers.commands import OPTIONS, STEPS, finish, run_folder, scalars, start
from helpers.pocket_pictures import KEYS, base, photos, pocket, pocket_clip

from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.metric import DriftMetric
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.stable_diffusion.sampling import Sampling, dream

pytestmark = pytest.mark.gpu
RECIPE = [*OPTIONS, "--trainer.accelerator=gpu", "--trainer.precision=16-mixed", "--model.learning_rate=2e-5"]


def test_the_recipes_precision_fits_and_a_resumed_fit_ends_like_the_unbroken_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    finish(start(whole, *RECIPE), whole)
    finish(start(broken, *RECIPE, "--trainer.max_steps=10"), broken)
    config = run_folder(broken) / "config.yaml"
    finish(start(broken, "-c", str(config), "--ckpt_path=last", f"--trainer.max_steps={STEPS}"), broken)
    for tag, values in scalars(run_folder(whole)).items():
        assert np.isfinite([value for _, value in values]).all(), tag
    ours, theirs = (read_checkpoint(run_folder(f) / "checkpoints" / "last.ckpt") for f in (broken, whole))
    assert ours["global_step"] == STEPS
    assert ours["MixedPrecision"] == theirs["MixedPrecision"]
    assert_same_bits(ours, theirs)


def on_the_gpu():
    model = copy.copy(pocket())
    for part in ("unet", "text_encoder", "vae"):
        setattr(model, part, copy.deepcopy(getattr(model, part)).to("cuda"))
    return model


@torch.no_grad()
def test_dreams_are_the_cpus() -> None:
    prompts, seeds = zip(*KEYS[:4], strict=True)
    ours = dream(on_the_gpu(), prompts, seeds, Sampling(num_inference_steps=10))
    theirs = dream(pocket(), prompts, seeds, Sampling(num_inference_steps=10))
    gap = np.abs(np.stack([np.asarray(image, float) for image in ours]) - np.stack(theirs))
    assert gap.mean() < 1.0  # of 255 levels


@torch.no_grad()
def test_drift_measures_are_the_cpus() -> None:
    prompts, seeds = zip(*KEYS, strict=True)
    images = dream(on_the_gpu(), prompts, seeds, Sampling(num_inference_steps=3))
    roles = dict.fromkeys(prompts, "language")
    found = []
    for device in ("cpu", "cuda"):
        clip = pocket_clip().to(device)
        metric = DriftMetric(KEYS, roles, base(), photos("coffee"), clip.embed_texts(list(roles)).cpu())
        metric.update(range(len(KEYS)), Features.of(images, clip))
        found.append(metric.compute())
    pocket_clip().to("cpu")
    assert found[0].keys() == found[1].keys()
    for name, measure in found[0].items():
        assert found[1][name].value == pytest.approx(measure.value, rel=1e-3, abs=1e-3), name
