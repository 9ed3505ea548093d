"""Sizes and pixels: from a picture to what the networks process, and back to exactly scale times its size."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lightning_drift.common.errors import UserError

MULTIPLE = 32
REFERENCE_MULTIPLE = 64
STRIP_PIXELS = 2**25


@dataclass(frozen=True)
class Frame:
    """Sizes of one picture, each (width, height) in pixels.

    Attributes:
        output: What is returned: scale times the input.
        work: What is processed, before padding; larger than the output where the output is smaller than
            `min_size`.
        padded: `work` enlarged to what the networks can take.
        reference: Reference behaviour of `to_image`: resized without antialiasing, truncated instead of
            rounded.
    """

    output: tuple[int, int]
    work: tuple[int, int]
    padded: tuple[int, int]
    reference: bool = False


@dataclass(frozen=True)
class Sizing:
    """How sizes follow from a picture's.

    Args:
        upscale: Scale of the output.
        min_size: Shortest side to process in pixels; SDXL knows no smaller pictures.
        reference: Reference behaviour: pictures are stretched to multiples of 64, rounded half to even.
    """

    upscale: float
    min_size: int = 1024
    reference: bool = False

    def frame(self, width: int, height: int) -> Frame:
        """The sizes of a picture of so many pixels.

        Raises:
            UserError: There would be more pixels than is sane.
        """
        wide, high = width * self.upscale, height * self.upscale
        output = max(1, round(wide)), max(1, round(high))
        factor = max(1.0, self.min_size / min(wide, high))
        exact = wide * factor, high * factor
        if self.reference:
            stretched = _stretched(exact[0]), _stretched(exact[1])
            sizes = Frame(output, stretched, stretched, reference=True)
        else:
            work = output if factor == 1 else (round(exact[0]), round(exact[1]))
            padded = -(-work[0] // MULTIPLE) * MULTIPLE, -(-work[1] // MULTIPLE) * MULTIPLE
            sizes = Frame(output, work, padded)
        # What only `min_size` enlarges is a strip, and would hold up the others for hours.
        limit = STRIP_PIXELS if factor > 1 else Image.MAX_IMAGE_PIXELS or 2**27
        if sizes.padded[0] * sizes.padded[1] > limit:
            raise UserError(
                f"{width}x{height} pixels would be processed at {sizes.padded[0]}x{sizes.padded[1]}, more "
                f"than {limit // 10**6} megapixels; lower model.upscale or model.min_size"
            )
        return sizes


def _stretched(side: float) -> int:
    return max(REFERENCE_MULTIPLE, int(np.round(side / REFERENCE_MULTIPLE)) * REFERENCE_MULTIPLE)


def to_tensor(image: Image.Image, sizes: Frame) -> Tensor:
    """Pixels as the networks take them: [3, H, W] in [-1, 1], resized bicubically, padded by reflection."""
    resized = image if image.size == sizes.work else image.resize(sizes.work, Image.Resampling.BICUBIC)
    pixels = torch.from_numpy((np.asarray(resized, dtype=np.float64) / 255 * 2 - 1).astype(np.float32))
    right, bottom = sizes.padded[0] - sizes.work[0], sizes.padded[1] - sizes.work[1]
    return F.pad(pixels.permute(2, 0, 1), (0, right, 0, bottom), mode="reflect")


def to_image(pixels: Tensor, sizes: Frame) -> Image.Image:
    """A result [3, H, W] in [-1, 1] as an RGB image of the output's size, clamped.

    Args:
        pixels: What the networks made.
        sizes: The picture's frame.
    """
    pixels = pixels[None, :, : sizes.work[1], : sizes.work[0]].float()
    if sizes.work != sizes.output:
        size = (sizes.output[1], sizes.output[0])
        pixels = F.interpolate(
            pixels, size, mode="bicubic", align_corners=False, antialias=not sizes.reference
        )
    scaled = (pixels[0] * 127.5 + 127.5).clamp(0, 255)
    whole = scaled if sizes.reference else scaled.round()
    return Image.fromarray(whole.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
