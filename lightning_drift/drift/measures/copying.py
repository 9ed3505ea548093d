"""Copying: whether pictures are the training photos, by coarse thumbnails. No CLIP."""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_drift.drift.measures.intervals import SeedDraws

SIDE = 16
_FLAT = 1.0 / 255


def thumbnail(pixels: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) averaged to 16x16, shape (n, 3, 16, 16)."""
    return functional.adaptive_avg_pool2d(pixels, SIDE)


def correlations(pictures: Tensor, photos: Tensor) -> Tensor:
    """Correlation of each picture's thumbnail with each photo's, or with its mirror image if that is higher.

    >>> photo = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)  # dark on the left
    >>> pictures = torch.cat([photo, photo.flip(-1), photo.mT])
    >>> correlations(pictures, photo)[:, 0].abs().round(decimals=6).tolist()
    [1.0, 1.0, 0.0]

    Args:
        pictures: Thumbnails (n, 3, 16, 16).
        photos: Thumbnails (m, 3, 16, 16).

    Returns:
        Shape (n, m), in -1..1; 0 where either has one colour throughout.
    """
    ours = _directions(pictures)
    return torch.maximum(ours @ _directions(photos).T, ours @ _directions(photos.flip(-1)).T)


def copy_limit(base: Tensor, photos: Tensor) -> float:
    """The correlation with a photo above which a picture is called a copy.

    The highest of three numbers, but at most 0.98: 0.9 of the mean correlation of a photo with its nearest
    other photo, 0.85, and the highest correlation that any picture of the base reaches by chance. The latter
    two keep landscapes from being called copies where the photos have little in common with one another.

    Args:
        base: Thumbnails of the base's pictures (n, 3, 16, 16).
        photos: Thumbnails of the photos (m, 3, 16, 16).
    """
    among = correlations(photos, photos)
    among.fill_diagonal_(-1.0)
    nearest = float(among.max(1).values.mean()) if len(photos) > 1 else 0.0
    return min(max(0.9 * nearest, 0.85, float(correlations(base, photos).max())), 0.98)


def likeness(draws: SeedDraws, base: Tensor, now: Tensor, photos: Tensor) -> Tensor:
    """How much more each picture resembles its nearest photo than the base's did: 0 as the base, 1 copies.

    Noise and empty pictures resemble no photo, even where a CLIP finds them like the photos; they fall below
    the base. Arguments as in `copy`.

    >>> draws = SeedDraws([("a", 0), ("a", 1)], draws=0)
    >>> photos = torch.linspace(0, 1, 16).expand(2, 3, 16, 16)
    >>> likeness(draws, photos.mT, photos.mT, photos).item()
    0.0
    >>> round(likeness(draws, photos.mT, photos, photos).item(), 6)
    1.0

    Returns:
        Shape (1 + draws,), at most 1; negative where the resemblance has become less.
    """
    before, after = (draws.mean(correlations(pictures, photos).max(1).values) for pictures in (base, now))
    return (after - before) / (1 - before).clamp(min=0.05)


def copy(draws: SeedDraws, base: Tensor, now: Tensor, photos: Tensor) -> Tensor:
    """Share of pictures that are copies of a photo, in the sense of `copy_limit`.

    In the spirit of copy detection (Somepalli et al., "Diffusion art or digital forgery?", CVPR 2023), whose
    SSCD descriptor would see crops and changed colours too; thumbnails do not.

    Args:
        draws: The seeds' weights.
        base: Thumbnails of the base's pictures (n, 3, 16, 16).
        now: The checkpoint's.
        photos: Thumbnails of the photos (m, 3, 16, 16).

    Returns:
        Shape (1 + draws,), in 0..1.
    """
    return draws.mean((correlations(now, photos).max(1).values > copy_limit(base, photos)).double())


def _directions(thumbnails: Tensor) -> Tensor:
    flat = thumbnails.double().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return functional.normalize(flat, dim=1) * (flat.square().mean(1, keepdim=True).sqrt() > _FLAT)
