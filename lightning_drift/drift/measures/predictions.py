"""What the denoiser predicts of a few noisy latents, together as far as the memory goes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.halving import Batch
from lightning_drift.stable_diffusion.loading import StableDiffusion


def predictions(
    model: StableDiffusion,
    noisy: Tensor,
    timesteps: Tensor,
    states: Tensor,
    forward_context: Callable[[], AbstractContextManager[Any]],
    batch: Batch,
) -> Tensor:
    """The UNet's predictions, float32, shape (n, c, h, w).

    Args:
        model: The parts.
        noisy: Noisy latents, shape (n, c, h, w).
        timesteps: Their timesteps, shape (n,).
        states: What the text encoder makes of their prompts, shape (n, tokens, width).
        forward_context: Makes the context of the UNet's calls.
        batch: How many are predicted together.
    """

    def some(part: Sequence[int]) -> list[Tensor]:
        rows = slice(part[0], part[-1] + 1)
        with forward_context():
            return [*model.unet(noisy[rows], timesteps[rows], states[rows], return_dict=False)[0].float()]

    return torch.stack(batch.map(range(len(noisy)), some))
