"""The VAE's posterior of each instance image, computed once and kept on disk."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_drift.common.errors import UserError, notice


def weights_hash(module: nn.Module) -> str:
    """BLAKE2b over the names, dtypes, shapes and bytes of a module's state dict, 64 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def to_pixel_values(image: Tensor) -> Tensor:
    """Turn uint8 ``[..., H, W, 3]`` into float32 ``[..., 3, H, W]`` in -1 to 1, as SD's VAE reads it."""
    return image.movedim(-1, -3).to(torch.float32).div(127.5).sub(1.0).contiguous()


def cached_posteriors(
    vae: Any, images: Sequence[Tensor], device: torch.device, cache_dir: Path | None
) -> tuple[Tensor, Tensor]:
    """The posterior of each image, read from the cache or computed and put there.

    The cache's key is what the numbers follow from: the pixels, the VAE's weights, and the kind of device
    (its rounding). A file is complete once it has its name; one that cannot be read is computed again.

    Args:
        vae: A diffusers ``AutoencoderKL``.
        images: uint8 ``[H, W, 3]`` each, all of one size.
        device: Where to compute.
        cache_dir: Folder of cache files; None keeps nothing on disk.

    Returns:
        ``(mean, std)``, float32 ``[n, C, h, w]`` on the CPU, without the VAE's scaling factor.
    """
    if cache_dir is None:
        return posteriors(vae, images, device)
    digest = hashlib.blake2b(
        f"{weights_hash(vae)} {device.type} {tuple(images[0].shape)}".encode(), digest_size=16
    )
    for image in images:
        digest.update(image.numpy().tobytes())
    file = cache_dir / f"{digest.hexdigest()}.safetensors"
    if file.is_file():
        try:
            kept = load_file(file)
            mean, std = kept["mean"], kept["std"]
            if len(mean) != len(images) or mean.shape != std.shape:
                raise ValueError("unexpected shapes")
            return mean, std
        except Exception as error:
            notice(f"{file} cannot be read ({error}): encoding the photos again")
    mean, std = posteriors(vae, images, device)
    # Ranks of one run, and runs side by side, may write at once: each has its own partial file.
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        try:
            save_file({"mean": mean, "std": std}, partial)
            os.replace(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:
        notice(f"the photos' posteriors could not be kept in {cache_dir} ({error})")
    return mean, std


@torch.no_grad()
def posteriors(vae: Any, images: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Encode images one at a time in float32; the VAE comes back to its device, dtype and modes.

    Args:
        vae: A diffusers ``AutoencoderKL``.
        images: uint8 ``[H, W, 3]`` each, all of one size.
        device: Where to compute.

    Returns:
        ``(mean, std)`` of the Gaussian posterior, float32 ``[n, C, h, w]`` on the CPU, unscaled.
    """
    notice("encoding the photos once")
    was_device, was_dtype = vae.device, vae.dtype
    modes = {module: module.training for module in vae.modules()}
    nn.Module.to(vae, device=device, dtype=torch.float32)  # diffusers' own `to` logs a warning about nothing
    vae.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            found = [vae.encode(to_pixel_values(image)[None].to(device)).latent_dist for image in images]
        mean = torch.cat([posterior.mean.cpu() for posterior in found])
        std = torch.cat([posterior.std.cpu() for posterior in found])
    finally:
        nn.Module.to(vae, device=was_device, dtype=was_dtype)
        for module, training in modes.items():
            module.training = training
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise UserError("the VAE encodes the photos to NaN or infinity: its weights are damaged")
    return mean, std
