"""Samplers and tiles against the golden data, and against plain restatements where there is none."""

import itertools
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers.supir.golden import golden, relative
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_drift.supir.network.adapters import ZeroSFT
from lightning_drift.supir.network.denoiser import Conditioning, Denoiser
from lightning_drift.supir.network.schedule import ddpm_sigmas, karras_sigmas, sigma_table
from lightning_drift.supir.sampling.samplers import EdmSampling, sample
from lightning_drift.supir.sampling.tiling import TiledDenoise, Tiling

BASE = EdmSampling(steps=8, s_noise=1.003, control_scale=1.0)
CASES = {
    "A": replace(BASE, s_cfg=4.0, spt_linear_cfg=4.0, s_stage1=-1.0, s_churn=0.0),
    "B": replace(BASE, s_cfg=3.0, spt_linear_cfg=1.0, s_stage1=4.0, s_churn=0.0),
    "C": replace(BASE, s_cfg=7.5, spt_linear_cfg=4.0, s_stage1=-1.0, s_churn=5.0),
}


def conds(rows=2):
    common = golden("common_inputs")
    positive = Conditioning(common["crossattn_c"][:rows], common["vector_c"][:rows])
    return positive, Conditioning(common["crossattn_u"][:rows], common["vector_u"][:rows])


def whole(denoiser, latent, positive, negative):
    return lambda x, sigma, guidance, k: denoiser(x, sigma, latent, positive, negative, guidance, k)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_edm_sampler(network, case, sequential):
    data, common = golden("sampler"), golden("common_inputs")
    trajectory = []
    out = sample(
        CASES[case],
        whole(Denoiser(network, sequential=sequential), common["control"], *conds()),
        data[f"{case}.noise"],
        lambda i: data[f"{case}.step_noise"][i],
        common["x_center"],
        on_step=lambda i, x: trajectory.append(x.clone()),
    )
    # Guidance 7.5 magnifies the rounding between batch 2 and twice batch 1 (3e-6 in the specification).
    limit = 1e-6 if not sequential else 3e-6
    assert relative(out, data[f"{case}.out"]) <= limit
    for found, expected in zip(trajectory, data[f"{case}.trajectory"], strict=True):
        assert relative(found, expected) <= limit


def tiled(network, batch):
    data = golden("tiled")
    positive, negative = conds(1)
    return TiledDenoise(
        Denoiser(network),
        data["control"],
        positive,
        negative,
        Tiling(16, 8, batch, reference=True),
    )


@pytest.mark.parametrize("batch", [1, 4])
def test_tiled_edm_sampler(network, batch):
    data = golden("tiled")
    denoise = tiled(network, batch)
    coordinates = [[w.y0, w.y1, w.x0, w.x1] for w in denoise.windows]
    assert coordinates == data["tile_coords"].tolist()
    settings = replace(BASE, s_cfg=4.0, spt_linear_cfg=1.0, s_stage1=4.0, s_churn=5.0)
    out = sample(
        settings, denoise, data["T_edm.noise"], lambda i: data["T_edm.step_noise"][i], data["x_center"]
    )
    assert relative(out, data["T_edm.out"]) <= 1e-6


def toy(x, sigma, guidance, k):
    """A denoiser that is cheap and depends on everything it is given."""
    return torch.tanh(x / (1 + float(sigma))) * guidance - 0.1 * k * x


def noises(steps, shape=(2, 4, 8, 8)):
    return torch.randn(steps + 1, *shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("restore", [-1.0, 2.5])
def test_edm_with_linear_control_restoration_and_bf16_sigmas(dtype, restore):
    """Specification 5.4, written out with scalars: linear control uses sigma, guidance the churned sigma."""
    steps, churn = 20, 3.0
    settings = EdmSampling(
        steps=steps, s_cfg=4.0, spt_linear_cfg=1.5, s_stage1=restore, control_scale=1.0,
        spt_control_scale=0.2, s_churn=churn, s_noise=1.01,
    )  # fmt: skip
    noise, center = noises(steps), torch.linspace(-1, 1, 2 * 4 * 64).reshape(2, 4, 8, 8)
    start = noise[-1].to(dtype)
    found = sample(settings, toy, start, lambda i: noise[i], center, sigma_dtype=dtype)

    def number(value):
        return torch.tensor(value, dtype=torch.float32).to(dtype)

    x = start * (1 + ddpm_sigmas(steps)[0] ** 2) ** 0.5
    assert x.dtype == dtype
    levels = [number(s) for s in ddpm_sigmas(steps).tolist()]
    gamma = churn / steps
    for i in range(steps):
        s, after = levels[i], levels[i + 1]
        hat = s * (1 + gamma)
        x = x + 1.01 * noise[i].to(x.dtype) * (hat * hat - s * s).sqrt()
        k = (s / 14.6146) * (0.2 - 1.0) + 1.0
        g = (1.5 - 4.0) * hat / 14.6146 + 4.0
        denoised = toy(x, hat, float(g), float(k)).float()
        if after > 0.05 and restore > 0:
            denoised = denoised - (denoised - center) * (s / 14.6146) ** restore
        x = x + (after - hat) * ((x - denoised) / hat)
    assert relative(found, x) <= (1e-6 if dtype == torch.float32 else 2e-2)
    exact = sample(settings, toy, noise[-1], lambda i: noise[i], center)
    assert (relative(found, exact) > 1e-4) == (dtype == torch.bfloat16)


def test_small_churn_is_not_capped():
    steps = 10
    seen = []
    sample(
        replace(BASE, steps=steps, s_churn=1.0), lambda x, s, g, k: seen.append(float(s)) or x, noises(0)[0],
        lambda i: torch.zeros(2, 4, 8, 8),
    )  # fmt: skip
    assert seen == pytest.approx([1.1 * float(s) for s in ddpm_sigmas(steps)[:-1]], rel=1e-6)


@pytest.mark.parametrize("reference", [False, True])
def test_dpmpp_2m_sde(reference):
    """Specification 5.6 in float64, for batch 2; restoration and linear control act unless `reference`."""
    steps = 8
    settings = EdmSampling(
        sampler="dpmpp_2m_sde", steps=steps, s_cfg=2.0, spt_linear_cfg=2.0, s_stage1=4.0, control_scale=1.0,
        spt_control_scale=0.0, s_noise=1.003, reference=reference,
    )  # fmt: skip
    noise, center = noises(steps).double(), torch.linspace(-1, 1, 2 * 4 * 64).reshape(2, 4, 8, 8).double()
    drawn = []
    found = sample(
        settings, toy, noise[-1].float(), lambda i: drawn.append(i) or noise[i].float(), center.float()
    )
    assert drawn == list(range(1, steps - 1))
    levels = karras_sigmas(steps).double().tolist()
    x, older = noise[-1] * math.sqrt(1 + levels[0] ** 2), None
    for i in range(steps):
        s, after = levels[i], levels[i + 1]
        k = 1.0 if reference else 1.0 - s / 14.6146
        d = toy(x, s, 2.0, k)
        if not reference and after > 0.05:
            d = d - (d - center) * (s / 14.6146) ** 4.0
        if after == 0:
            x = d
        else:
            h = math.log(s / after)
            m = d
            if older is not None:
                r = math.log(levels[i - 1] / s) / h
                m = (1 + 1 / (2 * r)) * d - (1 / (2 * r)) * older
            x = (after / s) * math.exp(-h) * x + (1 - math.exp(-2 * h)) * m
            if older is not None:
                x = x + 1.003 * noise[i] * after * math.sqrt(1 - math.exp(-2 * h))
        older = d
    assert relative(found, x) <= 1e-5


def test_dpmpp_with_eta_zero_draws_nothing():
    settings = EdmSampling(sampler="dpmpp_2m_sde", steps=6, eta=0.0)

    def refuse(_):
        raise AssertionError("drew noise")

    assert sample(settings, toy, noises(0)[0], refuse).isfinite().all()


@pytest.mark.parametrize(("guidance", "other"), [(1.0, 1), (3.0, 0)], ids=["scale 1", "equal prompts"])
def test_guidance_without_effect_needs_one_evaluation_except_in_the_reference(network, guidance, other):
    common, prompts = golden("common_inputs"), conds()
    calls = []
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    arguments = (common["noise"], torch.tensor(1.0), common["control"], prompts[0], prompts[other])
    single = Denoiser(network, sequential=True)(*arguments, guidance=guidance, control_scale=1.0)
    assert len(calls) == 1
    both = Denoiser(network, sequential=True, reference=True)(
        *arguments, guidance=guidance, control_scale=1.0
    )
    assert len(calls) == 3
    hook.remove()
    assert relative(single, both) <= 1e-6


def test_the_reference_rounds_what_the_control_encoder_reads_to_the_latents_dtype(network):
    common, positive = golden("common_inputs"), conds()[0]
    latent, sigma = common["control"].bfloat16(), torch.tensor(1.0)
    seen, base = [], []
    hooks = [
        network.control.register_forward_pre_hook(lambda module, args: seen.extend(args[2:])),
        network.unet.conv_in.register_forward_pre_hook(lambda module, args: base.append(args[0])),
    ]
    for reference in (False, True):
        Denoiser(network, reference=reference).predict(common["noise"], sigma, latent, positive, 1.0)
    for hook in hooks:
        hook.remove()
    assert [torch.equal(part, part.bfloat16().float()) for part in seen] == [False] * 3 + [True] * 3
    assert torch.equal(*base), "the base UNet's input is not rounded"


def test_a_bfloat16_state_is_scaled_in_float32(network):
    """The reference's first state has the dtype of a bfloat16 autoencoder, its noise levels are float32."""
    common, positive = golden("common_inputs"), conds()[0]
    x, sigma = common["noise"].bfloat16(), sigma_table()[700]
    read = []
    hook = network.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    found = Denoiser(network).predict(x, sigma, common["control"], positive, 1.0)
    hook.remove()
    assert relative(read[0], x.double() / (sigma.double() ** 2 + 1).sqrt()) <= 1e-6
    assert (
        relative(found, Denoiser(network).predict(x.float(), sigma, common["control"], positive, 1.0)) <= 1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_adapters_blend_in_float32(dtype):
    """A plain input that the blend rounds before the sum would be a unit in the last place off."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = ZeroSFT(32, 32).to(dtype)
        control, skip, state = (torch.randn(1, 32, 8, 8).to(dtype) for _ in range(3))
    one, half = adapter(control, skip, state, 1.0), adapter(control, skip, state, 0.3)
    plain = torch.cat([state, skip], dim=1)
    norm = adapter.param_free_norm
    hidden = adapter.mlp_shared(control)
    modulated = F.group_norm(
        torch.cat([state, skip + adapter.zero_conv(control)], dim=1).float(),
        norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps,
    )  # fmt: skip
    modulated = modulated * (adapter.zero_mul(hidden).float() + 1) + adapter.zero_add(hidden).float()
    assert torch.equal(one, modulated.to(dtype))
    assert torch.equal(half, (modulated * 0.3 + plain.float() * 0.7).to(dtype))


# -- tiles -----------------------------------------------------------------------------------------


def test_a_tiled_run_with_one_tile_equals_the_untiled_run(network):
    common, (positive, negative) = golden("common_inputs"), conds()
    settings = replace(BASE, steps=3)
    noise = noises(3, (2, 4, 16, 12))
    results = [
        sample(settings, denoise, noise[-1], lambda i: noise[i])
        for denoise in (
            whole(Denoiser(network), common["control"], positive, negative),
            TiledDenoise(Denoiser(network), common["control"], positive, negative, Tiling(128, 64)),
        )
    ]
    assert torch.equal(*results)


def test_an_axis_smaller_than_the_tile_is_covered_by_a_clamped_window(network):
    common, (positive, negative) = golden("common_inputs"), conds()
    denoise = TiledDenoise(Denoiser(network), common["control"], positive, negative, Tiling(12, 4))
    assert {(w.x0, w.x1) for w in denoise.windows} == {(0, 12)}
    assert [(w.y0, w.y1) for w in denoise.windows] == [(0, 12), (4, 16)]
    assert denoise(common["noise"], torch.tensor(1.0), 2.0, 1.0).isfinite().all()


@pytest.mark.parametrize("rows", [1, 2])
def test_each_tile_hears_its_own_prompt(network, rows):
    """Blend of the windows' estimates, each under its own conditioning, written out window by window."""
    generator = torch.Generator().manual_seed(0)
    latent, x = (torch.randn(rows, 4, 20, 28, generator=generator) for _ in range(2))
    positive = [
        Conditioning(torch.randn(1, 7, 64, generator=generator), torch.randn(1, 96, generator=generator))
        for _ in range(6)
    ]
    negative = conds(1)[1]
    sigma, denoiser = torch.tensor(3.0), Denoiser(network)
    total, blended = torch.zeros(20, 28), torch.zeros(rows, 4, 20, 28)
    weights = Tiling().weights(16, 16).float()
    for window, cond in zip(Tiling(16, 8).windows(20, 28), positive, strict=True):
        part = denoiser(window.of(x), sigma, window.of(latent), cond, negative, 2.5, 0.8)
        window.of(blended).add_(part * weights)
        window.of(total).add_(weights)
    for batch in (1, 4):
        found = TiledDenoise(denoiser, latent, positive, negative, Tiling(16, 8, batch))(x, sigma, 2.5, 0.8)
        assert relative(found, blended / total) <= 3e-6
    swapped = TiledDenoise(denoiser, latent, positive[::-1], negative, Tiling(16, 8))(x, sigma, 2.5, 0.8)
    assert relative(swapped, blended / total) > 1e-3
    with pytest.raises(ValueError, match="5 local prompts for 6 windows"):
        TiledDenoise(denoiser, latent, positive[:5], negative, Tiling(16, 8))


def test_no_seam_in_a_constant_picture():
    """If every window estimates the same constant, so does the blend, up to rounding."""

    def constant(x, *_):
        return torch.full_like(x, 0.7)

    latent = torch.zeros(1, 4, 40, 56)
    cond = conds(1)[0]
    for reference in (False, True):
        blend = TiledDenoise(constant, latent, cond, cond, Tiling(16, 8, 3, reference))
        out = blend(latent, torch.tensor(1.0), 1.0, 1.0)
        assert_close(out, torch.full_like(out, 0.7), rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("length", "tile", "stride"), [(20, 16, 8), (28, 16, 8), (129, 128, 64), (200, 128, 64), (64, 16, 8)]
)
def test_windows_and_weights_look_the_same_from_both_ends(length, tile, stride):
    starts = Tiling(tile, stride).starts(length)
    assert starts[0] == 0
    assert starts[-1] == length - tile
    assert [length - tile - start for start in reversed(starts)] == starts
    assert max(b - a for a, b in pairwise(starts)) <= stride
    assert len(starts) == len(Tiling(tile, stride, reference=True).starts(length))
    weights = Tiling().weights(tile, tile + 4)
    assert_close(weights, weights.flip(0), rtol=1e-12, atol=0)
    assert_close(weights, weights.flip(1), rtol=1e-12, atol=0)
    assert not torch.allclose(Tiling(reference=True).weights(tile, tile), weights[:, 2:-2].flip(0), rtol=1e-3)


def test_windows_overlap_at_least_as_asked_in_every_reachable_setting():
    """Windows are placed by what is left beside a tile, in steps of 4 latent cells, and by the stride."""
    moved = 0
    for left, stride in itertools.product(range(4, 1025, 4), range(1, 257)):
        starts = Tiling(256, stride).starts(256 + left)
        gaps = [b - a for a, b in pairwise(starts)]
        assert 0 < min(gaps) <= max(gaps) <= stride
        assert len(gaps) == -(-left // stride), "no more windows than needed"
        if len(gaps) % 2 or left % 2 == 0:
            assert gaps == gaps[::-1]
        # Rounded down in the first half, mirrored in the second: kept wherever the overlap is large enough.
        half = [left * i // len(gaps) for i in range(len(starts) // 2 + len(starts) % 2)]
        down = half + [left - start for start in reversed(half[: len(starts) // 2])]
        if max(b - a for a, b in pairwise(down)) <= stride:
            assert starts == down
        else:
            moved += 1
    assert moved > 500


def test_the_sampler_saturates_at_the_tables_end(network):
    """Above the table the network sees its last entry, the combination uses it too."""
    denoiser, cond = Denoiser(network), conds()[0]
    common = golden("common_inputs")
    seen = []
    hook = network.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    x = common["noise"] * 20
    out = denoiser.predict(x, torch.tensor(20.0), common["control"], cond, 1.0)
    hook.remove()
    assert seen[0].tolist() == [999, 999]
    assert torch.equal(out, denoiser.predict(x, sigma_table()[-1], common["control"], cond, 1.0))
