"""The VAE's posterior of each instance image, computed once and kept on disk."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    if cache_dir is None:
        notice("encoding the photos once")
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
    notice("encoding the photos once")
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
