"""What an export is checked for: half precision holds the weights, and it computes as its source."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.stable_diffusion.loading import (
    StableDiffusion,
)
from lightning_drift.stable_diffusion.opened_pipeline import PARTS
from lightning_drift.stable_diffusion.sd15 import sd15_models

if TYPE_CHECKING:
    pass


HALF_MAX = 65504.0


TOLERANCE = 1e-2
"""Largest relative change of an output that rounding the weights to float16 may make."""


def refuse_beyond_half(part: str, state: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that half precision cannot hold.

    Raises:
        UserError: A weight is NaN or infinite, or beyond float16's largest number, 65504.
    """
    for name, tensor in state.items():
        largest = tensor.abs().max().item()  # NaN if any is
        if not math.isfinite(largest):
            raise UserError(
                f"{origin} has diverged: {part}.{name} holds NaN or infinity; export an earlier checkpoint"
            )
        if largest > HALF_MAX:
            raise UserError(
                f"{origin} does not fit half precision: {part}.{name} reaches {largest:.4g}, "
                f"float16 ends at {HALF_MAX:.0f}"
            )


def _has_sd15_shape(model: StableDiffusion) -> bool:
    """Whether every weight has the shape that it has in SD v1.5."""
    return all(_shapes(getattr(model, part)) == _shapes(sd15_models()[part]) for part in PARTS)


def _shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@torch.no_grad()
def probe(model: StableDiffusion) -> dict[str, Tensor]:
    """One text-encoder call and one UNet call on fixed input, to tell whether two models compute the same.

    Returns:
        The prompt's features ``[1, tokens, hidden]`` and the UNet's output ``[1, 4, s, s]``.
    """
    length = model.tokenizer.model_max_length
    prompt = model.tokenizer(
        "a photo of sks person", padding="max_length", max_length=length, return_tensors="pt"
    )
    condition = model.text_encoder(prompt.input_ids)[0]
    side = 2 ** len(
        model.unet.config.block_out_channels
    )  # two cells at the coarsest level: quick at full size
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    return {"text encoder": condition, "UNet": model.unet(noise, 500, condition)[0]}


def _compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], target: Path) -> None:
    for part, tensor in expected.items():
        change = ((found[part] - tensor).norm() / tensor.norm()).item()
        if not change < TOLERANCE:  # NaN fails too
            raise UserError(
                f"{target} was written, but does not compute as its source: the {part}'s output differs by "
                f"{change:.2%} (rounding to half precision stays below {TOLERANCE:.0%}). "
                "It was left for inspection; do not use it"
            )
