"""CIE L*a*b* of sRGB pictures, and the way back.

sRGB's curve and primaries are those of IEC 61966-2-1, L*a*b* that of CIE 15 with the white of D65 as sRGB has
it. Pictures are [N, 3, H, W], float32, sRGB in [-1, 1]; L* is 0 to 100, a* and b* are about -110 to 100.
"""

import torch
from torch import Tensor

_TO_XYZ = torch.tensor(
    [
        [0.4123907993, 0.3575843394, 0.1804807884],
        [0.2126390059, 0.7151686788, 0.0721923154],
        [0.0193308187, 0.1191947798, 0.9505321522],
    ],
    dtype=torch.float64,
)
_TO_WHITE = _TO_XYZ / _TO_XYZ.sum(1, keepdim=True)
"""Linear sRGB to X, Y and Z, each over that of the white."""
_FROM_WHITE = torch.linalg.inv(_TO_WHITE)
_DELTA = 6 / 29


def to_lab(picture: Tensor) -> Tensor:
    """L*, a* and b* of an sRGB picture; the curve goes on beyond [-1, 1], odd about black."""
    coded = (picture + 1) / 2
    size = coded.abs()
    linear = torch.where(size <= 0.04045, size / 12.92, ((size.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    xyz = _mixed(_TO_WHITE, linear.copysign(coded))
    root = xyz.clamp_min(_DELTA**3) ** (1 / 3)
    x, y, z = torch.where(xyz > _DELTA**3, root, xyz / (3 * _DELTA**2) + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def to_rgb(lab: Tensor) -> Tensor:
    """The sRGB picture; colours outside of its gamut lie outside of [-1, 1]."""
    light, a, b = lab.unbind(1)
    y = (light + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    xyz = torch.where(root > _DELTA, root**3, 3 * _DELTA**2 * (root - 4 / 29))
    linear = _mixed(_FROM_WHITE, xyz)
    size = linear.abs()
    coded = torch.where(
        size <= 0.0031308, 12.92 * size, 1.055 * size.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    )
    return 2 * coded.copysign(linear) - 1


def _mixed(matrix: Tensor, picture: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", matrix.to(picture), picture)
