"""Sampling large pictures through overlapping windows that are blended at every step.

MultiDiffusion (Bar-Tal et al. 2023, arXiv:2302.08113): every step denoises all windows and averages them.
Both samplers' steps are linear in the estimate, with the same coefficients for every window, so blending the
estimates is the same as blending the windows after the step; the samplers need not know of tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_drift.supir.network.denoiser import Conditioning, Denoiser

VARIANCE = 0.01


@dataclass(frozen=True)
class Window:
    """Rows y0 to y1, columns x0 to x1 of the latent."""

    y0: int
    y1: int
    x0: int
    x1: int

    def of(self, tensor: Tensor) -> Tensor:
        """The window's part of [..., h, w], a view."""
        return tensor[..., self.y0 : self.y1, self.x0 : self.x1]


@dataclass(frozen=True)
class Tiling:
    """How a latent is covered by windows, all in latent units.

    Args:
        tile: Window edge (the reference's is 128); 0 for one window of the whole latent.
        stride: Largest distance between neighbouring windows (the reference's is 64).
        batch: Windows per pass of the network.
        reference: Reference behaviour: windows at multiples of `stride` and a last one flush with the end,
            instead of the same number of windows spread evenly, which looks the same from both ends; and
            weights whose vertical centre is half a cell too low.
    """

    tile: int = 0
    stride: int = 64
    batch: int = 1
    reference: bool = False

    def starts(self, length: int) -> list[int]:
        """Where the windows of an axis begin; one window if the axis is no longer than a tile."""
        last = length - self.tile if self.tile else 0
        if last <= 0:
            return [0]
        if self.reference:
            return [*range(0, last + 1, self.stride), *([last] if last % self.stride else [])]
        gaps = -(-last // self.stride)
        down, up = (_mirrored(last, gaps, rounding) for rounding in (0, gaps - 1))
        # Positions that are rounded down can leave a middle gap one cell wider than the stride.
        return down if max(b - a for a, b in pairwise(down)) <= self.stride else up

    def windows(self, height: int, width: int) -> list[Window]:
        """All windows of a latent, row by row; one clamped window covers an axis shorter than the tile."""
        tile_y, tile_x = (min(self.tile or length, length) for length in (height, width))
        return [Window(y, y + tile_y, x, x + tile_x) for y in self.starts(height) for x in self.starts(width)]

    def weights(self, height: int, width: int) -> Tensor:
        """Weight of each position of a window in the blend: a Gaussian about the centre.

        Args:
            height: Window height.
            width: Window width.

        Returns:
            Float64 [height, width].
        """
        rows = _profile(height, height / 2 if self.reference else (height - 1) / 2)
        return torch.from_numpy(np.outer(rows, _profile(width, (width - 1) / 2)))


def _mirrored(last: int, gaps: int, rounding: int) -> list[int]:
    """0 to `last` in equal gaps as nearly as whole numbers allow; the second half mirrors the first."""
    first = [(last * i + rounding) // gaps for i in range(gaps // 2 + 1)]
    return first + [last - start for start in reversed(first[: (gaps + 1) // 2])]


def _profile(length: int, centre: float) -> Any:
    offset = np.arange(length, dtype=np.float64) - centre
    return np.exp(-offset * offset / (length * length) / (2 * VARIANCE)) / np.sqrt(2 * np.pi * VARIANCE)


class TiledDenoise:
    """A guided denoiser over windows: the weighted mean of the windows' estimates.

    Args:
        denoiser: The denoiser of one window.
        latent: Latent of the degraded picture [N, 4, h, w].
        positive: Conditioning of the prompt, or one per window ("local prompts").
        negative: Conditioning of the negative prompt, shared by the windows.
        tiling: The windows.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        latent: Tensor,
        positive: Conditioning | Sequence[Conditioning],
        negative: Conditioning,
        tiling: Tiling,
    ) -> None:
        self.denoiser, self.latent, self.negative, self.batch = denoiser, latent, negative, tiling.batch
        self.windows = tiling.windows(latent.shape[-2], latent.shape[-1])
        if isinstance(positive, Conditioning):
            positive = [positive] * len(self.windows)
        if len(positive) != len(self.windows):
            raise ValueError(f"{len(positive)} local prompts for {len(self.windows)} windows")
        self.positive = positive
        first = self.windows[0]
        weights = tiling.weights(first.y1 - first.y0, first.x1 - first.x0)
        self.weights = weights.to(latent.device, torch.float32)
        self.total = torch.zeros(latent.shape[-2:], device=latent.device)
        for window in self.windows:
            window.of(self.total).add_(self.weights)

    def __call__(self, x: Tensor, sigma: Tensor, guidance: float, control_scale: float) -> Tensor:
        """Blended estimate of the clean latent, float32, of the shape of `x`."""
        if len(self.windows) == 1:
            return self.denoiser(
                x, sigma, self.latent, self.positive[0], self.negative, guidance, control_scale
            )
        rows = x.shape[0]
        blended = torch.zeros_like(x, dtype=torch.float32)
        for begin in range(0, len(self.windows), self.batch):
            group = self.windows[begin : begin + self.batch]
            conds = [cond.rows(rows) for cond in self.positive[begin : begin + self.batch]]
            estimates = self.denoiser(
                torch.cat([window.of(x) for window in group]),
                sigma,
                torch.cat([window.of(self.latent) for window in group]),
                Conditioning.joined(conds),
                _repeat(self.negative.rows(rows), len(group)),
                guidance,
                control_scale,
            )
            for window, estimate in zip(group, torch.split(estimates, rows), strict=True):
                window.of(blended).add_(estimate * self.weights)
        return blended / self.total


def _repeat(cond: Conditioning, times: int) -> Conditioning:
    return Conditioning(cond.context.repeat(times, 1, 1), cond.vector.repeat(times, 1))
