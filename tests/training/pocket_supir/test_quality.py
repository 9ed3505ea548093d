"""Degradation loses detail, and the measures of prints see it."""

import pytest
import torch
from helpers.supir.stages import SIDE
from transformers import CLIPModel

from lightning_drift.assets import POCKET_CLIP
from lightning_drift.common.rng import generator
from training.pocket.scenes import Scenes
from training.pocket_supir.degradation import blur, degrade, enlarge, jpeg, reduce
from training.pocket_supir.quality import energy, measure, ssim
from training.pocket_supir.stages import pocket_vae


def test_degradation_is_a_function_of_its_generator_and_loses_detail():
    x = Scenes(2, 4, SIDE).images([0, 1, 2, 3])
    degraded = degrade(x, generator(1, "d"), pocket_vae())
    assert degraded.shape == x.shape
    assert torch.equal(degraded, degrade(x, generator(1, "d"), pocket_vae()))
    assert not torch.equal(degraded, degrade(x, generator(2, "d"), pocket_vae()))
    soft = blur(x, torch.tensor([0.0, 0.5, 1.0, 2.0]))
    torch.testing.assert_close(soft[0], x[0])
    steepness = energy(soft) / energy(x)
    assert steepness[0] > steepness[1] > steepness[3]
    plain = torch.stack([enlarge(picture) for picture in reduce(x)])
    assert (energy(plain) < energy(x)).all()
    assert (jpeg(x[0], 10) - x[0]).abs().mean() > (jpeg(x[0], 90) - x[0]).abs().mean() > 0


def test_measures_tell_good_prints_from_bad():
    clip = CLIPModel.from_pretrained(str(POCKET_CLIP), torch_dtype=torch.float32).eval()
    truth = Scenes(4, 2, 128).images([0, 1])
    given = reduce(truth)
    soft = torch.stack([enlarge(picture) for picture in given])
    best, worse = measure(truth, truth, given, clip), measure(soft, truth, given, clip)
    assert best.clip_distance < 1e-5
    assert best.energy == pytest.approx(1)
    assert worse.clip_distance > 0.01
    assert worse.energy < 0.8
    assert worse.energy_error > 0.2
    assert 25 < worse.fidelity < best.fidelity
    assert float(ssim(given, given).mean()) == pytest.approx(1, abs=1e-4)
    assert float(ssim(given, given.flip(-1)).mean()) < 0.9
