"""Colour transfer in CIE L*a*b*: the colours of a reference picture, the fine structure of the result.

What is added to a pixel's L*, a* and b* is a function of the result's own coarse lightness there, linear in
every neighbourhood, fitted to the coarse difference of the two pictures: a guided filter (He, Sun & Tang
2013, "Guided Image Filtering", doi:10.1109/TPAMI.2012.213, eqs. 5, 6 and 8) over the difference, guided by
the result. So a correction follows the result's edges instead of running over them, which makes halos. Pixels
weigh less in the fit where either picture has an edge, because edges that have moved or are sharper in one
picture tell nothing of colour.

Pictures are [N, 3, H, W] in [-1, 1], float32; nothing is clamped. Moving colours that leave sRGB's gamut back
along L*, or to the nearest of their hue, was measured: it costs colour or detail, against clipping red, green
and blue when the picture is stored.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_drift.supir import cielab
from lightning_drift.supir.colour import blur

COARSE = 4
"""Blurs, of 1, 2, 4 and 8 pixels, that leave what is fitted; finer structure is the result's own."""
RADIUS = 12
"""Of the square neighbourhoods, in pixels."""
CONTRAST = 10.0
"""Deviation of lightness in a neighbourhood from which on the correction tells light from dark; below it is
the same for both, so that texture stays."""
EDGE = 1.2
"""Slope of a coarse picture, L*a*b* units a pixel, at which a pixel weighs half."""

_REACH = 2**COARSE - 1 + 1 + 2 * RADIUS
"""How far away, in pixels, what decides about one pixel lies."""
_STRIP = 2**20
"""Pixels that are worked on at a time; what surrounds them comes on top."""


def transfer(content: Tensor, style: Tensor) -> Tensor:
    """`content` with the colours of `style`, in strips of rows, so that memory is bounded.

    Args:
        content: The result.
        style: The reference, of the same size.

    Returns:
        The picture; colours beyond sRGB's gamut lie outside of [-1, 1].
    """
    height, width = content.shape[-2:]
    rows = max(2 * _REACH, _STRIP // width)
    parts = []
    for first in range(0, height, rows):
        top, last = max(0, first - _REACH), min(height, first + rows)
        seen = slice(top, min(height, last + _REACH))
        lab = cielab.to_lab(content[..., seen, :])
        lab += _correction(lab, cielab.to_lab(style[..., seen, :]))
        parts.append(cielab.to_rgb(lab[..., first - top : last - top, :]))
    return torch.cat(parts, dim=-2)


def _correction(content: Tensor, style: Tensor) -> Tensor:
    """What to add to `content`, both in L*a*b*."""
    for level in range(COARSE):
        content, style = blur(content, 2**level), blur(style, 2**level)
    difference, guide = style - content, content[:, :1]
    weight = 1 / (1 + (_steepness(content) + _steepness(style)) / EDGE**2)
    total = _box(weight)

    def mean(values: Tensor) -> Tensor:
        return _box(weight * values) / total

    light, average = mean(guide), mean(difference)
    spread = mean(guide * guide) - light * light
    slope = (mean(guide * difference) - light * average) / (spread + CONTRAST**2)
    offset = average - slope * light
    # Each pixel lies in many neighbourhoods; those with few edges tell more of it.
    around = _box(total)
    return _box(total * slope) / around * guide + _box(total * offset) / around


def _steepness(lab: Tensor) -> Tensor:
    """Squared length of the gradient [N, 1, H, W], over all channels, by central differences."""
    padded = F.pad(lab, (1,) * 4, mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return (across.square() + down.square()).sum(dim=1, keepdim=True)


def _box(values: Tensor) -> Tensor:
    """The mean over each pixel's neighbourhood, edges replicated."""
    channels, size = values.shape[1], 2 * RADIUS + 1
    kernel = values.new_full((channels, 1, 1, size), 1 / size)
    padded = F.pad(values, (RADIUS,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)
