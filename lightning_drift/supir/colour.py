"""Colour fixes: take the coarse colours of a reference picture, keep the fine structure of the result.

Pictures are [N, 3, H, W] in [-1, 1], float32; nothing is clamped.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 5


def blur(picture: Tensor, radius: int) -> Tensor:
    """Blur with the 3x3 binomial kernel, spread by `radius` pixels, edges replicated ("a trous" wavelet)."""
    line = torch.tensor([1.0, 2.0, 1.0], dtype=picture.dtype, device=picture.device)
    kernel = torch.outer(line, line) / 16
    channels = picture.shape[1]
    padded = F.pad(picture, (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, 3, 3), groups=channels, dilation=radius)


def low_frequencies(picture: Tensor) -> Tensor:
    """What five blurs of radius 1, 2, 4, 8 and 16 pixels leave."""
    for level in range(LEVELS):
        picture = blur(picture, 2**level)
    return picture


def wavelet(content: Tensor, style: Tensor) -> Tensor:
    """High frequencies of `content` on low ones of `style` (StableSR, Wang et al., arXiv:2305.07015)."""
    return content - low_frequencies(content) + low_frequencies(style)


def adain(content: Tensor, style: Tensor) -> Tensor:
    """`content` with `style`'s mean and deviation of each channel (Huang & Belongie, arXiv:1703.06868)."""

    def moments(picture: Tensor) -> tuple[Tensor, Tensor]:
        flat = picture.flatten(2)
        deviation = (flat.var(dim=2, keepdim=True) + 1e-5).sqrt()
        return flat.mean(dim=2, keepdim=True).unsqueeze(-1), deviation.unsqueeze(-1)

    (mean_c, std_c), (mean_s, std_s) = moments(content), moments(style)
    return (content - mean_c) / std_c * std_s + mean_s
