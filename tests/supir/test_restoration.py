"""The whole restoration against the golden end-to-end data, and what must not change a picture."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from helpers.supir.golden import golden, relative
from helpers.supir.models import CONFIGS, write_sdxl_file, write_supir

from lightning_drift.supir import colour
from lightning_drift.supir.network.denoiser import Conditioning
from lightning_drift.supir.network.weights import open_checkpoints
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.noise import AddressedNoise, ReferenceNoise
from lightning_drift.supir.sampling.samplers import EdmSampling
from lightning_drift.supir.settings import Method

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return open_checkpoints(
        write_supir(folder / "supir.safetensors"), write_sdxl_file(folder / "sdxl.safetensors"), CONFIGS
    )


def restorer(checkpoints, method):
    made = Restorer(checkpoints, method, CPU)
    common = golden("common_inputs")
    made.prompts.captions[""] = Conditioning(common["crossattn_c"][:1], common["vector_c"][:1])
    made.prompts._negative = Conditioning(common["crossattn_u"][:1], common["vector_u"][:1])
    if method.memory != "8bit" and method.ae_dtype == torch.float32:  # the tests need not load the same again
        if id(checkpoints) not in LOADED:
            LOADED[id(checkpoints)] = (
                checkpoints.network(torch.float32),
                checkpoints.first_stage(torch.float32),
            )
        made._network, made._first_stage = LOADED[id(checkpoints)]
    made.placement.lends = True  # exercised with copies on the CPU
    return made


LOADED = {}


@contextmanager
def counted(module):
    """Calls of a module's forward."""
    calls = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


GOLDEN = Method(
    sampling=EdmSampling(
        steps=6, s_cfg=4.0, spt_linear_cfg=1.0, s_stage1=4.0, control_scale=0.95, s_churn=5.0, s_noise=1.01,
        reference=True,
    ),
    color_fix="Wavelet",
    memory="full",
)  # fmt: skip


class Recorded:
    """The golden run's own noises."""

    def __init__(self):
        self.data = golden("e2e")

    def posterior(self, like):
        return self.data["wavelet.z_stage1_noise"]

    def start(self, like):
        return self.data["wavelet.init_noise"]

    def step(self, i, like):
        return self.data["wavelet.step_noise"][i]


@pytest.mark.parametrize("noise", ["recorded", "drawn"])
def test_end_to_end(checkpoints, noise):
    data = golden("e2e")
    made = restorer(checkpoints, GOLDEN)
    source = Recorded() if noise == "recorded" else ReferenceNoise(1234, 0, 1, CPU)
    stage = made.stage_one(data["image"], Recorded())
    assert relative(stage.latent, data["wavelet.z"]) <= 1e-5
    assert relative(stage.picture, data["wavelet.x_stage1"]) <= 1e-5
    out = made.restore(data["image"], [[""]], [source])
    assert relative(out, data["wavelet.out"]) <= 1e-5


def test_end_to_end_latent_and_decoded(checkpoints):
    data = golden("e2e")
    made = restorer(checkpoints, replace(GOLDEN, color_fix="None"))
    finals = []
    made._sample = lambda *args, inner=made._sample: finals.append(inner(*args)) or finals[-1]
    out = made.restore(data["image"], [[""]], [Recorded()])
    assert relative(finals[0], data["wavelet.latent_out"]) <= 2e-6
    assert relative(out, data["wavelet.decoded"]) <= 1e-5


def test_the_reference_draws_its_noise_in_the_recorded_order():
    data = golden("e2e")
    noise, like = ReferenceNoise(1234, 0, 1, CPU), data["wavelet.z"]
    torch.testing.assert_close(noise.posterior(like), data["wavelet.z_stage1_noise"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(noise.start(like), data["wavelet.init_noise"], rtol=1e-5, atol=1e-6)
    for i in range(6):
        torch.testing.assert_close(noise.step(i, like), data["wavelet.step_noise"][i], rtol=1e-5, atol=1e-6)


def test_two_reference_samples_share_one_stream_and_adain_takes_each_ones_colours(checkpoints):
    """num_samples 2: the noise of both is one draw of [2, 4, h, w]; one by one or together, they agree."""
    data = golden("e2e")
    method = replace(GOLDEN, color_fix="AdaIn")
    like = data["wavelet.z"]
    both = torch.randn(2, *like.shape[1:], generator=torch.Generator().manual_seed(77))
    assert torch.equal(ReferenceNoise(77, 1, 2, CPU).posterior(like), both[1:])
    image = data["image"]
    alone = [
        restorer(checkpoints, method).restore(image, [[""]], [ReferenceNoise(77, row, 2, CPU)])
        for row in (0, 1)
    ]
    together = restorer(checkpoints, method).restore(
        image.repeat(2, 1, 1, 1), [[""], [""]], [ReferenceNoise(77, row, 2, CPU) for row in (0, 1)]
    )
    assert relative(together, torch.cat(alone)) <= 1e-5
    assert relative(alone[0], alone[1]) > 1e-2
    # AdaIN written out for one channel of the second sample.
    plain = restorer(checkpoints, replace(method, color_fix="None")).restore(
        image, [[""]], [ReferenceNoise(77, 1, 2, CPU)]
    )
    stage = restorer(checkpoints, method).stage_one(image, Recorded())
    x, style = plain[0, 2].double().flatten(), stage.picture[0, 2].double().flatten()
    expected = (x - x.mean()) / (x.var() + 1e-5).sqrt() * (style.var() + 1e-5).sqrt() + style.mean()
    assert relative(alone[1][0, 2].flatten(), expected) <= 1e-5


# -- ours ------------------------------------------------------------------------------------------

OURS = Method(
    sampling=EdmSampling(steps=3, s_cfg=3.0, spt_linear_cfg=1.5, control_scale=0.9, s_stage1=3.0),
    memory="full",
)
SIZE = (64, 96)


def picture(seed=0, count=1):
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def run(checkpoints, method, images=None, seeds=(1,)):
    images = picture() if images is None else images
    made = restorer(checkpoints, method)
    return made.restore(images, [[""]] * len(images), [AddressedNoise(seed, 0, CPU) for seed in seeds])


@pytest.fixture(scope="module")
def plain_result(checkpoints):
    with torch.no_grad():
        return run(checkpoints, OURS)


@pytest.mark.parametrize("level", ["offload", "sequential", "stream"])
def test_memory_levels_change_nothing_but_rounding(checkpoints, plain_result, level):
    assert relative(run(checkpoints, replace(OURS, memory=level)), plain_result) <= 1e-5


def test_eight_bit_weights_report_their_error_and_stay_near(checkpoints, plain_result, capsys):
    out = run(checkpoints, replace(OURS, memory="8bit"))
    assert "8-bit weights: relative error 0." in capsys.readouterr().err
    assert 1e-4 < relative(out, plain_result) < 0.1


def test_a_picture_does_not_depend_on_its_batch(checkpoints, plain_result):
    images = torch.cat([picture(3), picture(0)])
    both = run(checkpoints, OURS, images, seeds=(9, 1))
    assert relative(both[1:], plain_result) <= 1e-5


def test_seeds_and_samples_differ(checkpoints, plain_result):
    assert relative(run(checkpoints, OURS, seeds=(2,)), plain_result) > 1e-2
    a, b = (AddressedNoise(1, sample, CPU).start(torch.zeros(1, 4, 8, 8)) for sample in (0, 1))
    assert not torch.equal(a, b)


def test_one_large_window_is_the_whole_picture(checkpoints, plain_result):
    assert torch.equal(run(checkpoints, replace(OURS, tile=64, stride=32)), plain_result)
    assert relative(run(checkpoints, replace(OURS, tile=8, stride=4)), plain_result) > 1e-4


def test_colours_can_come_from_the_input(checkpoints):
    plain = run(checkpoints, replace(OURS, color_fix="None"))
    found = run(checkpoints, replace(OURS, color_fix="AdaIn", color_reference="input"))
    assert relative(found, colour.adain(plain, picture())) <= 1e-6


def test_the_second_encoding_is_skipped_without_restoration(checkpoints):
    made = restorer(checkpoints, replace(OURS, sampling=replace(OURS.sampling, s_stage1=-1.0)))
    with counted(made.first_stage().vae.encoder) as calls:
        made.restore(picture(), [[""]], [AddressedNoise(1, 0, CPU)])
    assert not calls
    assert made.stage_one(picture(), AddressedNoise(1, 0, CPU)).center is None


def test_samples_of_one_picture_share_the_first_stage(checkpoints):
    made = restorer(checkpoints, OURS)
    noises = [AddressedNoise(1, sample, CPU) for sample in (0, 1)]
    with counted(made.first_stage().denoise_encoder) as calls:
        made.restore(picture().repeat(2, 1, 1, 1), [[""]] * 2, noises, keys=["a", "a"])
        assert len(calls) == 1
        made.restore(picture(4), [[""]], noises[:1], keys=["b"])
        assert len(calls) == 2


def test_control_scale_zero_never_runs_the_control_encoder(checkpoints):
    made = restorer(checkpoints, replace(OURS, sampling=replace(OURS.sampling, control_scale=0.0)))
    with counted(made.network().control) as calls:
        assert made.restore(picture(), [[""]], [AddressedNoise(1, 0, CPU)]).isfinite().all()
    assert not calls


def test_bfloat16_autoencoder_in_the_reference_rounds_latents_and_sigmas(checkpoints):
    """The whole reference path in its mixed precision runs, and stays near float32 for one picture."""
    data = golden("e2e")
    method = replace(GOLDEN, ae_dtype=torch.bfloat16, sampling=replace(GOLDEN.sampling, s_churn=0.0))
    made = restorer(checkpoints, method)
    stage = made.stage_one(data["image"], Recorded())
    assert stage.latent.dtype == torch.bfloat16
    out = made.restore(data["image"], [[""]], [ReferenceNoise(1234, 0, 1, CPU)])
    assert out.dtype == torch.float32
    assert out.isfinite().all()


def test_prompts_are_encoded_once(checkpoints, monkeypatch):
    made = Restorer(checkpoints, replace(OURS, prompt="fine grain", negative_prompt="blurry"), CPU)
    loads = []
    inner = type(checkpoints).text_encoders
    monkeypatch.setattr(
        type(checkpoints), "text_encoders", lambda self, dtype: loads.append(1) or inner(self, dtype)
    )
    made.prompts.encode(["a cup", ""])
    first = {key: cond.context for key, cond in made.prompts.captions.items()}
    assert set(first) == {"a cup", ""}
    assert made.prompts.negative.context.shape == (1, 77, 64)
    assert made.prompts.negative.vector.shape == (1, 96)
    made.prompts.encode(["", "a cup"])
    assert len(loads) == 1
    assert not torch.equal(first[""], first["a cup"])


def test_auto_says_what_it_chose(checkpoints, capsys):
    made = restorer(checkpoints, replace(OURS, memory="auto"))
    made.restore(picture(), [[""]], [AddressedNoise(1, 0, CPU)])
    said = capsys.readouterr().err
    assert "memory: full, since" in said
    assert "GiB are free on cpu" in said
