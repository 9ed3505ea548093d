"""Exact sizes by networks of a fixed scale: as often as needed, then reduced."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError


@dataclass(frozen=True)
class Passes:
    """The way from a picture to its print; sizes are (width, height) in pixels.

    Attributes:
        source: The picture's size.
        output: The print's: exactly the picture's times a factor, rounded, at least 1.
        count: How often a network enlarges it; 0 where the print is no larger.
        scale: Of the network; 1 without one.
    """

    source: tuple[int, int]
    output: tuple[int, int]
    count: int
    scale: int

    @classmethod
    def of(cls, source: tuple[int, int], upscale: float, scale: int) -> "Passes":
        """The fewest passes that reach a factor.

        Args:
            source: Size of the picture.
            upscale: The factor.
            scale: Of the network, 2 or more; 1 without one.

        Raises:
            UserError: The print, or what is made on the way, would have more pixels than is sane.
        """
        count = 0
        while scale > 1 and scale**count < upscale:
            count += 1
        output = max(1, round(source[0] * upscale)), max(1, round(source[1] * upscale))
        passes = cls(source, output, count, scale)
        wide, high = max(output[0], passes.side(0, count)), max(output[1], passes.side(1, count))
        limit = Image.MAX_IMAGE_PIXELS or 2**27
        if wide * high > limit:
            raise UserError(
                f"{source[0]}x{source[1]} pixels would be processed at {wide}x{high}, more than "
                f"{limit // 10**6} megapixels; lower model.upscale"
            )
        return passes

    def side(self, axis: int, after: int) -> int:
        """Pixels along an axis (0: width) after so many passes."""
        return int(self.source[axis] * self.scale**after)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)


def to_image(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """Pixels [3, H, W] in [0, 1] as an RGB image, reduced to a size by Lanczos's filter before rounding."""
    planes = pixels.numpy()
    if planes.shape[:0:-1] != size:
        filtered = [Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS) for plane in planes]
        planes = np.stack([np.asarray(plane) for plane in filtered])
    rounded = np.rint(planes.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(rounded.transpose(1, 2, 0)))
