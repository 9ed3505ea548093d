"""Weights stored in 8 bits: integers, and for every output row of a weight a scale of its own.

The file is plain safetensors with ``{"eight_bit": "int8 rows"}`` in its metadata: a weight is int8 under its
own name, and its scales are float16 under ``<name>.row_scale``. `weights.files` widens them as they
are read, so that no loader needs to know of it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

EIGHT_BIT = {"eight_bit": "int8 rows"}
"""The metadata of a safetensors file whose weights are int8, each row with a scale."""


ROW_SCALE = ".row_scale"

SMALLEST = 2048
"""Weights with fewer numbers stay float16; so do those of layers that touch a latent or a picture."""
SPARED_CHANNELS = 8


def packed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that holds weights in 8 bits.

    Args:
        state: Weights by name, of any floating dtype.

    Returns:
        What to write: matrices and kernels in 8 bits, everything else in float16.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _spared(tensor):
            tensors[name] = tensor.detach().half().contiguous()
            continue
        rows = tensor.detach().float().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp_min(1e-7).half()
        numbers = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        tensors[name] = numbers.reshape(tensor.shape).contiguous()
        tensors[name + ROW_SCALE] = scale
    return tensors, {"format": "pt", **EIGHT_BIT}


def _spared(tensor: Tensor) -> bool:
    return tensor.ndim < 2 or tensor.numel() < SMALLEST or min(tensor.shape[:2]) <= SPARED_CHANNELS
