"""What happens to a print before the pocket's SUPIR gets to see it: blur, reduction, a codec, noise, JPEG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

RATIO = 4
"""How many times smaller the degraded picture is than the print."""


def blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Gaussian blur of pictures (n, c, h, w), each with its own standard deviation (n,) in pixels."""
    radius = 6
    places = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (places / sigmas.clamp_min(1e-3)[:, None]) ** 2)
    kernels = kernels / kernels.sum(1, keepdim=True)
    n, c, h, w = images.shape
    weight = kernels.repeat_interleave(c, 0)[:, None]
    x = F.pad(images, (radius,) * 4, mode="replicate").reshape(1, n * c, h + 2 * radius, -1)
    x = F.conv2d(x, weight[:, :, :, None], groups=n * c)
    x = F.conv2d(x, weight[:, :, None], groups=n * c)
    return x.reshape(n, c, h, w)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """A picture (3, h, w) in -1..1 after JPEG at a quality of 1 to 95."""
    file = io.BytesIO()
    to_pil(image).save(file, "jpeg", quality=quality)
    return _from_array(np.asarray(Image.open(file)))


def to_pil(image: Tensor) -> Image.Image:
    """A picture (3, h, w) in -1..1 as 8-bit RGB."""
    levels = (image * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def enlarge(image: Tensor, ratio: int = RATIO) -> Tensor:
    """A picture (3, h, w) enlarged as the upscaler enlarges its input: 8 bits, bicubic."""
    small = to_pil(image)
    size = small.width * ratio, small.height * ratio
    return _from_array(np.asarray(small.resize(size, Image.Resampling.BICUBIC)))


def reduce(images: Tensor, ratio: int = RATIO) -> Tensor:
    """Pictures (n, 3, h, w) reduced by averaging squares, as the world's painter makes small pictures."""
    return F.avg_pool2d(images, ratio)


def degrade(images: Tensor, random: torch.Generator, codec: Any | None = None) -> Tensor:
    """What the upscaler would see of prints, at their own size again.

    Seven in ten are blurred by up to two pixels of the print; all are reduced fourfold; with a codec half go
    through it; three in ten get noise, three in ten JPEG of quality 50 to 95; then all are enlarged.

    Args:
        images: Prints (n, 3, h, w) in -1..1, sides multiples of 16.
        random: Decides everything; the same generator gives the same pictures.
        codec: The pocket's AutoencoderKL, through which all of its dreams have come.
    """
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return _degrade(images, random, codec)


def _degrade(images: Tensor, random: torch.Generator, codec: Any | None) -> Tensor:
    n = len(images)
    chance, amount = torch.rand((4, n), generator=random), torch.rand((3, n), generator=random)
    small = reduce(blur(images, 2.0 * amount[0] * (chance[0] < 0.7)))
    if codec is not None and bool((through := chance[1] < 0.5).any()):
        latents = codec.encode(small[through]).latent_dist.mean
        small[through] = codec.decode(latents).sample
    rough = torch.randn(small.shape, generator=random)
    small = small + rough * (0.06 * amount[1] * (chance[2] < 0.3))[:, None, None, None]
    pictures = []
    for k, picture in enumerate(small):
        if chance[3, k] < 0.3:
            picture = jpeg(picture, int(50 + 45 * amount[2, k]))
        pictures.append(enlarge(picture))
    return torch.stack(pictures)


def _from_array(pixels: Any) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 127.5 - 1
