"""The colour fix in L*a*b*: known colours, the reference's colours, the result's own detail, no halos."""

import pytest
import torch

from lightning_drift.supir import cielab, colour, lab_transfer
from lightning_drift.supir.restoration import COLOUR_FIXES

SIDE = 160
CODES = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (119, 119, 119): (50.03, 0.0, 0.0),
    (2, 1, 3): (0.37, 0.54, -0.66),  # where the curves are straight: 903.3 Y, 3893.5 (X - Y), …
}
"""8-bit sRGB, and L*a*b* (D65) as tables of it have them."""


def flat(code):
    return (torch.tensor(code).float() / 127.5 - 1)[None, :, None, None].expand(1, 3, 4, 4)


def test_known_colours():
    for code, lab in CODES.items():
        found = cielab.to_lab(flat(code))[0, :, 0, 0]
        assert found.tolist() == pytest.approx(lab, abs=0.02), code


def test_there_and_back_is_the_same_also_beyond_the_gamut():
    picture = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    torch.testing.assert_close(cielab.to_rgb(cielab.to_lab(picture)), picture, rtol=0, atol=2e-5)


def step(at, left, right, soft=0.5):
    """L*a*b* with an edge `at` pixels from the left."""
    share = torch.sigmoid((torch.arange(SIDE).float() - at) / soft)
    lab = torch.tensor(left)[:, None] * (1 - share) + torch.tensor(right)[:, None] * share
    return lab[None, :, None, :].expand(1, 3, 96, SIDE)


DARK, BRIGHT = (35.0, 20.0, -15.0), (75.0, -10.0, 25.0)
DARK_OTHER, BRIGHT_OTHER = (32.0, 26.0, -18.0), (80.0, -16.0, 18.0)


@pytest.mark.parametrize(
    ("reference", "target", "most", "wavelets"),
    [
        (step(80, DARK_OTHER, BRIGHT_OTHER), step(80, DARK_OTHER, BRIGHT_OTHER), 1.0, 3.5),
        (step(83, DARK_OTHER, BRIGHT_OTHER), step(80, DARK_OTHER, BRIGHT_OTHER), 3.0, 7.0),
        (step(86, DARK, BRIGHT), step(80, DARK, BRIGHT), 5.5, 8.0),
    ],
    ids=["other colours", "and an edge that moved", "the edge alone moved"],
)
def test_colours_are_the_references_up_to_the_edge_and_no_halo_runs_over_it(
    reference, target, most, wavelets
):
    content, style = cielab.to_rgb(step(80, DARK, BRIGHT)), cielab.to_rgb(reference)
    beside = (torch.arange(SIDE) - 80).abs() > 8

    def worst(fixed):
        return (cielab.to_lab(fixed) - target).norm(dim=1)[..., beside].max()

    assert worst(lab_transfer.transfer(content, style)) < most
    assert worst(colour.wavelet(content, style)) > wavelets


@pytest.mark.parametrize("period", [4, 8, 16, 24])
def test_the_results_own_texture_stays(period):
    wave = torch.sin(2 * torch.pi * torch.arange(SIDE).float() / period)
    plain = torch.tensor([55.0, 15.0, 10.0])[None, :, None, None].expand(1, 3, 96, SIDE)
    textured = plain + torch.tensor([8.0, 4.0, 0.0])[:, None, None] * wave
    cast = plain + torch.tensor([-6.0, 9.0, -20.0])[:, None, None]
    found = cielab.to_lab(lab_transfer.transfer(cielab.to_rgb(textured), cielab.to_rgb(cast)))
    inside = slice(40, -40)
    expected = textured - plain + cast
    assert (found - expected)[..., inside].norm() < 0.04 * (textured - plain)[..., inside].norm()


def noisy(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, 6, 5, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return picture * 1.4 - 0.7 + 0.1 * torch.randn(2, 3, height, width, generator=generator)


def test_strips_change_nothing_and_equal_pictures_stay(monkeypatch):
    content, style = noisy(0, 330, 70), noisy(1, 330, 70)
    whole = lab_transfer.transfer(content, style)
    monkeypatch.setattr(lab_transfer, "_STRIP", 1)
    torch.testing.assert_close(lab_transfer.transfer(content, style), whole, rtol=0, atol=2e-5)
    torch.testing.assert_close(lab_transfer.transfer(content, content), content, rtol=0, atol=2e-5)
    alone = lab_transfer.transfer(content[1:], style[1:])
    torch.testing.assert_close(alone, whole[1:], rtol=0, atol=2e-5)


def test_against_a_cast_the_mean_colour_and_the_detail_are_nearer_than_wavelets():
    truth = noisy(2, 128, 160)
    cast = torch.tensor([0.9, 1.2, 0.8])[:, None, None]
    content = cielab.to_rgb(cielab.to_lab(truth) * cast + torch.tensor([4.0, 6.0, -8.0])[:, None, None])
    errors = {}
    for name in ("Lab", "Wavelet"):
        fixed = COLOUR_FIXES[name](content, truth)
        shift = (cielab.to_lab(fixed) - cielab.to_lab(truth)).mean((2, 3)).norm(dim=1).max()
        fine, own = (
            cielab.to_lab(x)[:, :1] - cielab.to_lab(colour.blur(x, 1))[:, :1] for x in (fixed, content)
        )
        errors[name] = (float(shift), float((fine - own).norm() / own.norm()))
    assert all(ours < wavelets for ours, wavelets in zip(errors["Lab"], errors["Wavelet"], strict=True)), (
        errors
    )
