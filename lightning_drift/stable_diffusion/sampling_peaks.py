"""The moments of sampling that take most memory, for a model that may be without weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import torch

from lightning_drift.stable_diffusion.autoencoder import decode
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.prompt_states import encode_prompts
from lightning_drift.stable_diffusion.sampling import Sampling, latent_shape, predict_noise


@torch.no_grad()
def rehearse_step(
    model: StableDiffusion,
    forward_context: Callable[[], AbstractContextManager[Any]],
    pictures: int,
    sampling: Sampling,
    beside: bool = False,
) -> None:
    """One step of `dream`, on a model that may be without weights; no picture comes of it.

    Args:
        model: The parts, on one device.
        forward_context: As for `dream`.
        pictures: How many are sampled together.
        sampling: As for `dream`.
        beside: Whether a base of the same shapes lies beside the model.
    """
    base = [deepcopy(part) for part in (model.unet, model.text_encoder) if beside]
    device, guided = model.unet.device, sampling.guidance_scale > 1.0
    latents = torch.zeros((pictures, *latent_shape(model, sampling)), device=device)
    scale = torch.ones((pictures, 1, 1, 1), device=device) if guided else None
    with forward_context():
        states = encode_prompts(model, [""]).to(model.unet.dtype)
        condition = states[[0] * pictures * (1 + guided)]
        predict_noise(model, latents, torch.zeros((), dtype=torch.long, device=device), condition, scale)
    del base


@torch.no_grad()
def rehearse_decoding(model: StableDiffusion, _: object, sampling: Sampling) -> None:
    """Likewise the decoding of one picture."""
    decode(model, torch.zeros(latent_shape(model, sampling), device=model.unet.device))
