"""The VAE's posterior of each instance image, computed once and kept on disk."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import notice
from lightning_drift.common.modules import weights_hash
from lightning_drift.stable_diffusion.autoencoder import posteriors


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
    file = None if cache_dir is None else cache_dir / _name(vae, images, device)
    if file is not None and file.is_file():
        try:
            return _read(file, len(images))
        except Exception as error:  # a damaged file fails in many ways
            notice(f"{file} cannot be read ({error})")
    notice("encoding the photos once")
    mean, std = posteriors(vae, images, device)
    if file is not None:
        try:
            with atomic_write(file) as target:
                target.write(to_bytes({"mean": mean, "std": std}))
        except OSError as error:
            notice(f"the photos' posteriors could not be kept in {cache_dir} ({error})")
    return mean, std


def _name(vae: Any, images: Sequence[Tensor], device: torch.device) -> str:
    """The cache file's name: a hash of what the numbers follow from."""
    settings = f"{weights_hash(vae)} {device.type} {tuple(images[0].shape)}"
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for image in images:
        digest.update(image.numpy().tobytes())
    return f"{digest.hexdigest()}.safetensors"


def _read(file: Path, count: int) -> tuple[Tensor, Tensor]:
    tensors = load_file(file)
    mean, std = tensors["mean"], tensors["std"]
    if len(mean) != count or mean.shape != std.shape:
        raise ValueError("unexpected shapes")
    return mean, std
