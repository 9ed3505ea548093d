"""Composition: how far the layout of light and dark tilted from what the same seed gave before. No CLIP."""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_drift.drift.measures.intervals import SeedDraws

SIDE = 8
FLAT = 0.25
"""L* units (root mean square). What varies less is flat: its layout is rounding, not composition."""

SPREAD_FLOOR = 0.01
"""A base whose seeds' layouts differ by less is not divided by."""


def layout(lightness: Tensor) -> Tensor:
    """L* (n, h, w) averaged to 8x8 fields, shape (n, 8, 8)."""
    return functional.adaptive_avg_pool2d(lightness[:, None], SIDE)[:, 0]


def layout_directions(layouts: Tensor) -> Tensor:
    """Unit vectors whose scalar products are the correlations of layouts.

    A flat layout has an own direction: it is like other flat ones and unrelated to the rest.

    >>> ramp = torch.arange(64.0).view(1, 8, 8)
    >>> ours = layout_directions(torch.cat([ramp, 5 + 2 * ramp, -ramp, torch.zeros_like(ramp)]))
    >>> (ours @ ours.T)[0].round(decimals=6).tolist()
    [1.0, 1.0, -1.0, 0.0]

    Args:
        layouts: Shape (n, 8, 8).

    Returns:
        Shape (n, 65), float64.
    """
    flat = layouts.double().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    blank = flat.square().mean(1, keepdim=True).sqrt() < FLAT
    return torch.cat([functional.normalize(flat, dim=1) * ~blank, blank.double()], dim=1)


def tilt(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """Mean (1 - correlation) of matched layouts, relative to that between two seeds of the base.

    Args:
        draws: The seeds' weights.
        base: Layouts of the base's pictures, shape (n, 8, 8).
        now: The checkpoint's, of the same prompts and seeds.

    Returns:
        Shape (1 + draws,): 0 when every picture kept its layout, 1 when it is as unrelated as another seed's.
    """
    ours, theirs = layout_directions(now), layout_directions(base)
    # For unit vectors half the squared distance is 1 - cosine, and exactly 0 for equal ones.
    moved = draws.mean((ours - theirs).square().sum(1) / 2)
    return moved / draws.pair_mean(torch.cdist(theirs, theirs).square() / 2).clamp(min=SPREAD_FLOOR)
