"""The values that SupirUpscaler's options may take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import real, whole
from lightning_drift.supir.settings import LATENT

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Dtype = Literal["auto", "float32", "float16", "bfloat16"]

RANGES = {
    "upscale": (0.25, 16),
    "min_size": (64, 8192),
    "edm_steps": (2, 999),
    "s_cfg": (0, 30),
    "spt_linear_cfg": (0, 30),
    "s_stage1": (-100, 100),
    "control_scale": (0, 1),
    "spt_linear_control": (0, 1),
    "s_churn": (0, 1000),
    "s_noise": (0, 2),
    "eta": (0, 1),
    "tile_batch": (1, 1024),
    "size_condition": (256, 4096),
    "encoder_tile_size": (64, 8192),
    "decoder_tile_size": (8, 1024),
}
"""Smallest and largest value of each option that is a number."""

_WHOLE = {"min_size", "edm_steps", "tile_batch", "size_condition", "encoder_tile_size", "decoder_tile_size"}
_MOST_TILE = 8192


def check_ranges(values: Mapping[str, float]) -> None:
    """Refuse numbers out of their option's range.

    Raises:
        UserError: One is; it names the range.
    """
    for name, value in values.items():
        low, high = RANGES[name]
        if name in _WHOLE:
            whole(value, f"model.{name}", int(low), int(high))
        else:
            real(value, f"model.{name}", low, high)


@dataclass(frozen=True)
class Windows:
    """In which windows pictures are sampled, in pixels.

    Attributes:
        size: Edge of a window; 0 for none.
        overlap: Smallest overlap of neighbours.
        beyond: Pixels of a picture that is sampled whole even so; larger ones are not.
    """

    size: int
    overlap: int
    beyond: int = 0


def read_windows(tile_size: int | Literal["auto"], tile_overlap: int | None, min_size: int) -> Windows:
    """The windows of the options.

    Args:
        tile_size: Their edge; ``auto`` for what the networks know, where the picture has more than four times
            as many pixels.
        tile_overlap: Their overlap; None for half a window, or with ``auto`` a quarter.
        min_size: Shortest side that is processed: what the networks know.

    Raises:
        UserError: The window is no multiple of 32 pixels up to 8192, or the overlap none of 8 below it.
    """
    if isinstance(tile_size, str):
        size = min(_MOST_TILE, max(256, -(-min_size // 64) * 64))
        beyond = 4 * size**2
        tile_overlap = size // 4 if tile_overlap is None else tile_overlap
    else:
        size, beyond = whole(tile_size, "model.tile_size", 0, _MOST_TILE), 0
    if tile_overlap is None:
        tile_overlap = size // 2 // LATENT * LATENT
    whole(tile_overlap, "model.tile_overlap", 0, _MOST_TILE)
    if not size:
        return Windows(0, 0)
    if size < 256 or size % 32:
        raise UserError(f"{size} is not 0 or a multiple of 32 of at least 256", "model.tile_size")
    if not 0 <= tile_overlap < size or tile_overlap % LATENT:
        raise UserError(
            f"{tile_overlap} is not a multiple of {LATENT} that is less than model.tile_size, {size}",
            "model.tile_overlap",
        )
    return Windows(size, tile_overlap, beyond)


def check_autoencoder_tiles(encoder_tile_size: int, decoder_tile_size: int, reference: bool) -> None:
    """Refuse the original's tiled autoencoder in part, or without the rest of the original.

    Raises:
        UserError: One of the sizes is given alone, out of range, or without ``reference_numerics``.
    """
    if bool(encoder_tile_size) != bool(decoder_tile_size):
        raise UserError(
            "model.decoder_tile_size belongs to it; give both or neither", "model.encoder_tile_size"
        )
    if not encoder_tile_size:
        return
    if not reference:
        raise UserError(
            "it belongs to reference_numerics; without that model.memory: sequential tiles the "
            "autoencoder exactly",
            "model.encoder_tile_size",
        )
    check_ranges({"encoder_tile_size": encoder_tile_size, "decoder_tile_size": decoder_tile_size})


def precision(dtype: Dtype, part: Literal["network", "autoencoder"], device: torch.device) -> torch.dtype:
    """The dtype of a part: the one that is asked for, or for ``auto`` that which suits the device.

    On a CPU it is float32. On a GPU the network is float16, the autoencoder bfloat16 where the GPU has it
    (SDXL's overflows in float16), else float32.
    """
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    if part == "network":
        return torch.float16
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32
