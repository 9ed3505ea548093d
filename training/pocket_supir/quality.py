"""Measures of prints: faithful to what was given, and like the true scene in what cannot be read off it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training.pocket.clip import image_features
from training.pocket_supir.degradation import blur, reduce

CLIP_SIDE = 64
"""Side in pixels of the pictures that the pocket's CLIP reads."""


@dataclass(frozen=True)
class Quality:
    """Means over prints.

    Attributes:
        fidelity: PSNR in dB of the print, reduced to the input's size, against the input.
        structure: SSIM of the same two, of their brightness.
        psnr: PSNR in dB against the true scene.
        clip_distance: 1 minus the cosine of CLIP features with those of the true scene, over squares of 64
            pixels of the print; 0 is equal.
        energy: Mean squared gradient as a fraction of the true scene's, geometric mean.
        energy_error: Mean absolute natural logarithm of that fraction; 0 is right.
    """

    fidelity: float
    structure: float
    psnr: float
    clip_distance: float
    energy: float
    energy_error: float


@torch.no_grad()
def measure(prints: Tensor, truth: Tensor, given: Tensor, clip: Any) -> Quality:
    """Compare prints with true scenes and with the small pictures they were made from.

    Args:
        prints: Prints (n, 3, 4h, 4w) in -1..1, clamped here.
        truth: True scenes of the same size.
        given: The small pictures (n, 3, h, w) in -1..1.
        clip: The pocket's CLIPModel.
    """
    prints = prints.clamp(-1, 1)
    small = reduce(prints)
    cosine = (square_features(clip, prints) * square_features(clip, truth)).sum(-1)
    ratio = (energy(prints) / energy(truth)).log()
    return Quality(
        fidelity=float(psnr(small, given).mean()),
        structure=float(ssim(small, given).mean()),
        psnr=float(psnr(prints, truth).mean()),
        clip_distance=float(1 - cosine.mean()),
        energy=float(ratio.mean().exp()),
        energy_error=float(ratio.abs().mean()),
    )


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Decibels of pictures in -1..1 (n,)."""
    return 10 * torch.log10(4 / (a - b).pow(2).mean((1, 2, 3)).clamp_min(1e-10))


def energy(pictures: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels (n,)."""
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).pow(2).mean((1, 2, 3))
    return down + (pictures[..., 1:] - pictures[..., :-1]).pow(2).mean((1, 2, 3))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of brightness (n,), Wang et al. 2004, Gaussian window of 1.5 pixels."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    x, y = (((p + 1) / 2) * weights for p in (a, b))
    x, y = x.sum(1, keepdim=True), y.sum(1, keepdim=True)
    sigmas = torch.full((len(x),), 1.5)
    mx, my = blur(x, sigmas), blur(y, sigmas)
    vx, vy = blur(x * x, sigmas) - mx * mx, blur(y * y, sigmas) - my * my
    shared = blur(x * y, sigmas) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mx * my + c1) * (2 * shared + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similarity.mean((1, 2, 3))


def square_features(clip: Any, pictures: Tensor) -> Tensor:
    """Unit features (n, squares, 128) of the squares of 64 pixels that pictures (n, 3, h, w) are made of."""
    n, c, h, w = pictures.shape
    side = CLIP_SIDE
    squares = pictures.reshape(n, c, h // side, side, w // side, side).permute(0, 2, 4, 1, 3, 5)
    features = image_features(clip, squares.reshape(-1, c, side, side))
    return features.reshape(n, -1, clip.config.projection_dim)


def whole_features(clip: Any, pictures: Tensor) -> Tensor:
    """Unit features (n, 128) of whole pictures (n, 3, h, w), reduced to the size that CLIP reads."""
    return image_features(clip, F.interpolate(pictures, CLIP_SIDE, mode="bicubic", antialias=True))
