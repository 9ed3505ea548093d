"""Texture: whether pictures are as rough as the base's or the photos, or noise, or empty. No CLIP."""

import torch
from torch import Tensor

from lightning_drift.drift.intervals import SeedDraws

FLOOR = 0.05
"""L* units. What is smoother counts as this smooth."""


def neighbour_difference(lightness: Tensor) -> Tensor:
    """Mean difference of L* between neighbouring pixels, shape (n,), of L* (n, h, w)."""
    across = (lightness[:, :, 1:] - lightness[:, :, :-1]).abs().mean((1, 2))
    down = (lightness[:, 1:] - lightness[:, :-1]).abs().mean((1, 2))
    return (across + down) / 2


def roughness(draws: SeedDraws, base: Tensor, now: Tensor, photos: Tensor) -> Tensor:
    """Roughness against what lies between the base and the photos: 1 within, above it noise, below it void.

    A model that goes to the photos, whichever way, is about as rough as one or the other. Noise and empty
    pictures are neither, even where a CLIP finds them like the photos.

    >>> draws = SeedDraws([("a", 0), ("a", 1)], draws=0)
    >>> base, photos = torch.tensor([2.0, 2.0]), torch.tensor([4.0])
    >>> [roughness(draws, base, base * factor, photos).item() for factor in (0.5, 1, 1.5, 2, 4)]
    [0.5, 1.0, 1.0, 1.0, 2.0]

    Args:
        draws: The seeds' weights.
        base: `neighbour_difference` of the base's pictures, shape (n,).
        now: Of the checkpoint's, shape (n,).
        photos: Of the photos, shape (m,).

    Returns:
        Shape (1 + draws,), above 0: the ratio to the nearer end of the range.
    """
    value, start, end = draws.mean(now), draws.mean(base), photos.double().mean()
    value, start, end = (number.clamp(min=FLOOR) for number in (value, start, end))
    return value / torch.minimum(torch.maximum(value, torch.minimum(start, end)), torch.maximum(start, end))
