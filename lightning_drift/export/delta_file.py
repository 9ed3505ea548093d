"""A fine-tune as float16 differences from its base: ``W - W0`` of UNet and text encoder in one file.

The differences of a short fine-tune are small numbers, and float16 is fine near zero (steps of 6e-8): base
and delta together give the fine-tune back closer than a float16 copy of it would.
"""

import torch
from torch import Tensor

from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline


def delta_bytes(parts: OpenedPipeline) -> int:
    """The most bytes that the delta of a model takes."""
    shapes = [shape for part in TRAINED for shape in parts.weights[part].shapes.values()]
    return sum(2 * torch.Size(shape).numel() for shape in shapes)


def delta_tensors(parts: OpenedPipeline, base: OpenedPipeline) -> dict[str, Tensor]:
    """The float16 differences of UNet and text encoder, as ``unet.<name>`` and ``text_encoder.<name>``.

    Weights that did not change, such as a frozen text encoder's, are left out.
    """
    tensors = {}
    for part in TRAINED:
        for name in parts.weights[part].shapes:
            tuned = parts.weights[part].read(name).float()
            change = (tuned - base.weights[part].read(name).float().reshape(tuned.shape)).half()
            if change.any():
                tensors[f"{part}.{name}"] = change
    return tensors
