"""Fine texture: closed forms, and what grain and blur do to it."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from lightning_drift.drift.measures.texture import FLOOR, fine_energy, texture

GREY = np.random.default_rng(0).integers(0, 256, (33, 48), np.uint8)


def test_it_is_the_energy_of_the_finest_haar_details() -> None:
    a, b, c, d = (GREY[i:32:2, j::2].astype(float) / 255 for i in (0, 1) for j in (0, 1))
    details = (a - b + c - d, a + b - c - d, a - b - c + d)
    expected = sum(((each / 4) ** 2).mean() for each in details)
    assert float(fine_energy(torch.from_numpy(GREY / 255))) == pytest.approx(expected)
    assert texture([Image.fromarray(GREY)]) == pytest.approx(expected + FLOOR, rel=1e-5)


def test_pictures_weigh_the_same_and_grain_and_blur_are_told() -> None:
    picture = Image.fromarray(GREY).filter(ImageFilter.GaussianBlur(1.5))
    smeared = picture.filter(ImageFilter.GaussianBlur(1.5))
    noise = np.random.default_rng(1).normal(0, 8, GREY.shape)
    grainy = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    assert texture([smeared]) < 0.5 * texture([picture])
    assert texture([grainy]) > 1.5 * texture([picture])
    faint = picture.point(lambda value: value // 4 + 90)
    ratio = texture([picture, faint]) / texture([grainy, faint])
    assert ratio == pytest.approx((texture([picture]) / texture([grainy])) ** 0.5)
    flat = Image.new("RGB", (8, 8), "red")
    assert texture([flat]) == pytest.approx(FLOOR)
    assert texture([flat]) / texture([flat]) == 1.0
