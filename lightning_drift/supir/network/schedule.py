"""Noise levels: the 1000-entry table of the base model, the sampling schedules, and the guidance ramp.

Noise level sigma is in the EDM convention (Karras et al. 2022, arXiv:2206.00364): ``x = x0 + sigma * noise``.
"""

import numpy as np
import torch
from torch import Tensor

SIGMA_REFERENCE = 14.6146
"""The ramps' full scale; reference behaviour: this literal, not the table's last entry (14.614641)."""

_ROUNDED_DOWN = [139, 272, 360, 565, 612, 686, 827, 847, 964]


def sigma_table() -> Tensor:
    """The 1000 noise levels the base model was trained on, ascending, float32 (0.0292 to 14.6146).

    DDPM "scaled linear" betas (Rombach et al. 2022, arXiv:2112.10752), ``sigma = sqrt((1 - a) / a)`` with
    ``a`` the cumulative product of ``1 - beta``; float64 up to the ratio, float32 from there (reference
    behaviour).

    Bit-exact on any machine: torch's own square root rounds differently from processor to processor, numpy's
    is correctly rounded everywhere, and the entries that the reference's run rounded down are named.
    """
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    alphas = np.cumprod(1.0 - betas)
    table = np.sqrt(((1 - alphas) / alphas).astype(np.float32))
    table[_ROUNDED_DOWN] = np.nextafter(table[_ROUNDED_DOWN], np.float32(0))
    return torch.from_numpy(table)


def ddpm_sigmas(steps: int) -> Tensor:
    """The default schedule: `steps` levels of the table at evenly spaced timesteps, descending, then 0.

    Reference behaviour: the timesteps are exactly this numpy expression; the last level is not the table's
    smallest (``steps=50`` ends at timestep 19, sigma 0.134) and the sampler jumps from it to 0.

    Args:
        steps: Number of sampler steps, 1 to 999.

    Returns:
        Float32 tensor of ``steps + 1`` levels.
    """
    timesteps = np.linspace(999, 0, steps, endpoint=False).astype(int)
    return torch.cat([sigma_table()[torch.from_numpy(timesteps.copy())], torch.zeros(1)])


def karras_sigmas(steps: int, rho: float = 7.0) -> Tensor:
    """Karras et al. 2022, equation 5, between the ends of `ddpm_sigmas`; float32 throughout (reference)."""
    ends = ddpm_sigmas(steps)
    low, high = ends[-2] ** (1 / rho), ends[0] ** (1 / rho)
    levels = (high + torch.linspace(0, 1, steps) * (low - high)) ** rho
    return torch.cat([levels, torch.zeros(1)])


def linear_ramp(sigma: Tensor, start: float, end: float) -> Tensor:
    """Straight line in sigma from `start` at the largest noise level to `end` at 0.

    The guidance scale ("linear CFG"). It extrapolates past `start` when churn lifts sigma above the table
    (reference behaviour). Evaluated left to right: other groupings are not bit-exact.
    """
    return (start - end) * sigma / SIGMA_REFERENCE + end
