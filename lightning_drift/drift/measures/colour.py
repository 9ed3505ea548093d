"""Colour: how far the mean colours moved, and whether towards the photos' palette."""

import torch
from torch import Tensor

from lightning_drift.drift.measures.intervals import SeedDraws

_TO_XYZ = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_BEND = (6 / 29) ** 3

SPREAD_FLOOR = 0.5
"""CIELAB units. A base whose seeds differ by less shows one colour, and is not divided by."""


def srgb_to_lab(pixels: Tensor) -> Tensor:
    """CIELAB under D65 of sRGB (IEC 61966-2-1; CIE 15:2004).

    >>> [round(v, 1) for v in srgb_to_lab(torch.tensor([1.0, 0.0, 0.0])).tolist()]
    [53.2, 80.1, 67.2]

    Args:
        pixels: Shape (..., 3), in 0..1.

    Returns:
        L* in 0..100, a* and b*, shape (..., 3), float32.
    """
    pixels = pixels.float()
    linear = torch.where(pixels > 0.04045, ((pixels + 0.055) / 1.055) ** 2.4, pixels / 12.92)
    # White is the matrix's own (its rows' sums), so that greys have a* = b* = 0.
    ratio = linear @ (_TO_XYZ / _TO_XYZ.sum(1, keepdim=True)).T
    f = torch.where(ratio > _BEND, ratio.clamp(min=1e-8) ** (1 / 3), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def delta_e(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """Mean distance of the pictures' mean colours, in CIELAB units (2.3 is just noticeable).

    Args:
        draws: The seeds' weights.
        base: Mean L*a*b* of the base's pictures, shape (n, 3).
        now: The checkpoint's, of the same prompts and seeds.

    Returns:
        Shape (1 + draws,), at least 0.
    """
    return draws.mean((now.double() - base.double()).norm(dim=-1))


def colour(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """`delta_e` in re-rolls: relative to its mean between two seeds of the base, pooled over prompts.

    Pooled, because grey drawings have hardly any spread of their own. After the colour drift of Laria et al.,
    "Open-world forgetting", arXiv:2410.14159. Arguments and shape as in `delta_e`.
    """
    between_seeds = draws.pair_mean(torch.cdist(base.double(), base.double()))
    return delta_e(draws, base, now) / between_seeds.clamp(min=SPREAD_FLOOR)


def palette_pull(draws: SeedDraws, base: Tensor, now: Tensor, photos: Tensor) -> Tensor:
    """How far the mean colours went towards the photos': 0 not at all, 1 all the way.

    The shift of each picture's mean colour is projected on its way to the photos' mean colour.

    Args:
        draws: The seeds' weights.
        base: Mean L*a*b* of the base's pictures, shape (n, 3).
        now: The checkpoint's, of the same prompts and seeds.
        photos: Mean L*a*b* of the photos, shape (m, 3).

    Returns:
        Shape (1 + draws,); negative when the colours move away from the photos'.
    """
    way = photos.double().mean(0) - base.double()
    gone = ((now.double() - base.double()) * way).sum(-1)
    return draws.mean(gone) / draws.mean((way * way).sum(-1)).clamp(min=1.0)
