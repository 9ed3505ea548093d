"""The VAE's posterior of each instance image, computed once and kept on disk."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import check_file
from lightning_drift.common.modules import weights_hash
from lightning_drift.stable_diffusion.autoencoder import posteriors


def cached_posteriors(
    vae: Any, images: Sequence[Tensor], device: torch.device, cache_dir: Path | None
) -> tuple[Tensor, Tensor]:
    """The posterior of each image, read from the cache or computed and put there.

    The cache's key is what the numbers follow from: the pixels, the VAE's weights, and the kind of device
    (its rounding). A file is complete once it has its name; one that does not hold what belongs there is
    computed again. A folder that cannot be read or written to is done without.

    Args:
        vae: A diffusers ``AutoencoderKL``.
        images: uint8 ``[H, W, 3]`` each, all of one size.
        device: Where to compute.
        cache_dir: Folder of cache files; None keeps nothing on disk.

    Returns:
        ``(mean, std)``, float32 ``[n, C, h, w]`` on the CPU, without the VAE's scaling factor.
    """
    file = None if cache_dir is None else cache_dir / _name(vae, images, device)
    amiss = ""
    if file is not None:
        try:
            found = _read(file, _shape(vae, images))
        except UserError as error:
            amiss = error.message
        else:
            if found is not None:
                return found
    notice(f"{amiss}; encoding the photos again" if amiss else "encoding the photos once")
    mean, std = posteriors(vae, images, device)
    if file is not None:
        try:
            with atomic_write(file) as target:
                target.write(to_bytes({"mean": mean, "std": std}))
        except OSError as error:
            if not amiss:  # one notice is enough
                notice(f"the photos' posteriors could not be kept in {cache_dir} ({error})")
    return mean, std


def _name(vae: Any, images: Sequence[Tensor], device: torch.device) -> str:
    """The cache file's name: a hash of what the numbers follow from."""
    settings = f"{weights_hash(vae)} {device.type} {tuple(images[0].shape)}"
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for image in images:
        digest.update(image.numpy().tobytes())
    return f"{digest.hexdigest()}.safetensors"


def _shape(vae: Any, images: Sequence[Tensor]) -> tuple[int, ...]:
    """The shape of the posteriors of images."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = (side // factor for side in images[0].shape[:2])
    return len(images), int(vae.config.latent_channels), height, width


def _read(file: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """What a cache file holds; None where there is no file.

    Raises:
        UserError: It cannot be read, or does not hold posteriors of that shape.
    """
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read the cache file {file}: {error.strerror or error}") from error
    check_file(file, "cache file")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read ({error})") from error
    if set(tensors) != {"mean", "std"}:
        raise UserError(f"the cache file {file} holds other tensors than it should")
    mean, std = tensors["mean"], tensors["std"]
    for tensor in (mean, std):
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
            raise UserError(f"the cache file {file} holds tensors of another shape or type")
    if not (mean.isfinite().all() and std.isfinite().all() and (std >= 0).all()):
        raise UserError(f"the cache file {file} holds numbers that no photo has")
    return mean, std
