"""Fine texture: how much a picture changes from one pixel to the next."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FLOOR = 1e-6
"""Energy of a picture without texture: less than rounding to 8 bits leaves behind."""


def fine_energy(grey: Tensor) -> Tensor:
    """Energy of the finest detail: the mean variance within fields of 2 x 2 pixels.

    What the three detail bands of a Haar wavelet's first level hold (S. Mallat, 1989), per pixel.

    >>> fine_energy(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).item(), fine_energy(torch.ones(4, 4)).item()
    (0.25, 0.0)

    Args:
        grey: Shape (h, w), 0..1; an odd last row or column is left out.

    Returns:
        Shape (), 0..0.25.
    """
    height, width = (side // 2 * 2 for side in grey.shape)
    fields = grey[:height, :width].reshape(height // 2, 2, width // 2, 2).transpose(1, 2).flatten(2)
    return fields.double().var(-1, unbiased=False).mean()


def texture(images: Sequence[Image.Image]) -> float:
    """The geometric mean of pictures' energies, so that the ratio of two is that of matched pictures.

    Args:
        images: One picture or more, in any mode that Pillow turns into greys.
    """
    greys = (torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32) / 255) for image in images)
    logs = torch.stack([(fine_energy(grey) + FLOOR).log() for grey in greys])
    return float(logs.mean().exp())
