"""Pixels to latents and back: the autoencoder as every stage uses it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.modules import eval_mode, placed
from lightning_drift.common.out_of_memory import Remedy, during

if TYPE_CHECKING:
    from lightning_drift.stable_diffusion.loading import StableDiffusion


def vae_factor(model: "StableDiffusion") -> int:
    """Pixels per latent cell along one axis: 8 for SD v1.5, 4 for the pocket."""
    return int(2 ** (len(model.vae.config.block_out_channels) - 1))


def to_pixel_values(image: Tensor) -> Tensor:
    """Turn uint8 ``[..., H, W, 3]`` into float32 ``[..., 3, H, W]`` in -1 to 1, as SD's VAE reads it."""
    return image.movedim(-1, -3).to(torch.float32).div(127.5).sub(1.0).contiguous()


@torch.no_grad()
def posteriors(vae: Any, images: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Encode images one at a time in float32; the VAE comes back to its device, dtype and modes.

    Args:
        vae: A diffusers ``AutoencoderKL``.
        images: uint8 ``[H, W, 3]`` each, all of one size.
        device: Where to compute.

    Returns:
        ``(mean, std)`` of the Gaussian posterior, float32 ``[n, C, h, w]`` on the CPU, unscaled.

    Raises:
        UserError: The result is not finite.
    """
    height, width = images[0].shape[:2]
    with (
        during(
            f"encoding the photos, each of {width}x{height},",
            lambda _: Remedy(f"lower data.resolution, which is {min(height, width)}"),
        ),
        placed(vae, device, torch.float32),
        eval_mode(vae),
        torch.autocast(device.type, enabled=False),
    ):
        encoded = [vae.encode(to_pixel_values(image)[None].to(device)).latent_dist for image in images]
    mean = torch.cat([posterior.mean.cpu() for posterior in encoded])
    std = torch.cat([posterior.std.cpu() for posterior in encoded])
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise UserError("the VAE encodes the photos to NaN or infinity: its weights are damaged")
    return mean, std


@torch.no_grad()
def encode_pictures(model: "StableDiffusion", images: Sequence[Image.Image]) -> Tensor:
    """The scaled latents of pictures of one size, float32 on the CPU, shape (n, c, h, w).

    The posterior's mean: no noise is drawn. The autoencoder computes where it lies.
    """
    latents = []
    for image in images:
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        values = to_pixel_values(pixels.view(1, image.height, image.width, 3))
        mean = model.vae.encode(values.to(model.vae.device, model.vae.dtype)).latent_dist.mean
        latents.append((mean * model.vae.config.scaling_factor).float().cpu())
    return torch.cat(latents)


def decode_latent(model: "StableDiffusion", latent: Tensor) -> Image.Image:
    """Decode one scaled latent [C, h, w] to an RGB picture; one at a time bounds the memory."""
    scaled = latent[None].to(model.vae.device, model.vae.dtype) / model.vae.config.scaling_factor
    pixels = model.vae.decode(scaled, return_dict=False)[0][0]
    samples = ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(samples.permute(1, 2, 0).cpu().numpy())
