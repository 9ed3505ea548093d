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
    """

    output: tuple[int, int]
    work: tuple[int, int]
    padded: tuple[int, int]


def frame(width: int, height: int, upscale: float, min_size: int = 1024, reference: bool = False) -> Frame:
    """The sizes of a picture.

    Args:
        width: Width of the input.
        height: Height of the input.
        upscale: Scale of the output.
        min_size: Shortest side to process; SDXL knows no smaller pictures.
        reference: Reference behaviour: the picture is stretched to multiples of 64, rounded half to even.

    Raises:
        UserError: There would be more pixels than is sane.
    """
    output = max(1, round(width * upscale)), max(1, round(height * upscale))
    factor = max(1.0, min_size / min(width * upscale, height * upscale))
    exact = width * upscale * factor, height * upscale * factor
    if reference:
        stretched = tuple(
            max(REFERENCE_MULTIPLE, int(np.round(side / REFERENCE_MULTIPLE)) * REFERENCE_MULTIPLE)
            for side in exact
        )
        sizes = Frame(output, (stretched[0], stretched[1]), (stretched[0], stretched[1]))
    else:
        work = output if factor == 1 else (round(exact[0]), round(exact[1]))
        padded = -(-work[0] // MULTIPLE) * MULTIPLE, -(-work[1] // MULTIPLE) * MULTIPLE
        sizes = Frame(output, work, padded)
    # What only `min_size` enlarges is a strip, and would hold up the others for hours.
    limit = STRIP_PIXELS if factor > 1 else Image.MAX_IMAGE_PIXELS or 2**27
    if sizes.padded[0] * sizes.padded[1] > limit:
        raise UserError(
            f"{width}x{height} pixels would be processed at {sizes.padded[0]}x{sizes.padded[1]}, more than "
            f"{limit // 10**6} megapixels; lower model.upscale or model.min_size"
        )
    return sizes


def to_tensor(image: Image.Image, sizes: Frame) -> Tensor:
    """Pixels as the networks take them: [3, H, W] in [-1, 1], resized bicubically, padded by reflection."""
    resized = image if image.size == sizes.work else image.resize(sizes.work, Image.Resampling.BICUBIC)
    pixels = torch.from_numpy((np.asarray(resized, dtype=np.float64) / 255 * 2 - 1).astype(np.float32))
    right, bottom = sizes.padded[0] - sizes.work[0], sizes.padded[1] - sizes.work[1]
    return F.pad(pixels.permute(2, 0, 1), (0, right, 0, bottom), mode="reflect")


def to_image(pixels: Tensor, sizes: Frame, reference: bool = False) -> Image.Image:
    """A result [3, H, W] in [-1, 1] as an RGB image of the output's size, clamped.

    Args:
        pixels: What the networks made.
        sizes: The picture's frame.
        reference: Reference behaviour: resized without antialiasing, truncated instead of rounded.
    """
    pixels = pixels[None, :, : sizes.work[1], : sizes.work[0]].float()
    if sizes.work != sizes.output:
        size = (sizes.output[1], sizes.output[0])
        pixels = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=not reference)
    scaled = (pixels[0] * 127.5 + 127.5).clamp(0, 255)
    whole = scaled if reference else scaled.round()
    return Image.fromarray(whole.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
