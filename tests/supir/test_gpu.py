"""What only a CUDA device can show: the same picture, at every memory level, and weights that come and go."""

import pytest
import torch
from helpers.supir.models import CONFIGS, write_sdxl_file, write_supir

from lightning_drift.supir.network.weights import open_checkpoints
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.noise import AddressedNoise
from lightning_drift.supir.sampling.samplers import EdmSampling
from lightning_drift.supir.settings import Method

pytestmark = pytest.mark.gpu
SAMPLING = EdmSampling(steps=3, s_cfg=3.0, spt_linear_cfg=1.5, s_stage1=3.0)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return open_checkpoints(
        write_supir(folder / "supir.safetensors"), write_sdxl_file(folder / "sdxl.safetensors"), CONFIGS
    )


def run(checkpoints, device, **options):
    device = torch.device(device)
    restorer = Restorer(checkpoints, Method(sampling=SAMPLING, prompt="grain", **options), device)
    image = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        out = restorer.restore(image, [[""]], [AddressedNoise(1, 0, device)])
    assert out.device.type == device.type
    return out.cpu()


@pytest.fixture(scope="module")
def expected(checkpoints):
    return run(checkpoints, "cpu", memory="full")


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("level", ["full", "offload", "sequential", "stream", "auto"])
def test_every_memory_level_makes_the_cpus_picture(checkpoints, expected, level):
    assert distance(run(checkpoints, "cuda", memory=level), expected) < 1e-2


@pytest.mark.parametrize("level", ["offload", "sequential", "stream"])
def test_nothing_stays_on_the_device(checkpoints, level):
    before = torch.cuda.memory_allocated()
    run(checkpoints, "cuda", memory=level)
    assert torch.cuda.memory_allocated() - before < 2**20


def test_half_precision_and_eight_bits_stay_near(checkpoints, expected):
    half = {"diff_dtype": torch.float16, "ae_dtype": torch.bfloat16}
    assert distance(run(checkpoints, "cuda", **half), expected) < 0.1
    assert distance(run(checkpoints, "cuda", memory="8bit", **half), expected) < 0.15
