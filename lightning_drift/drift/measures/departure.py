"""How far the denoiser itself has moved, without pictures and without a CLIP."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.halving import Batch
from lightning_drift.common.rng import generator
from lightning_drift.drift.measures.predictions import predictions
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.prompt_states import encode_prompts

SEEDS = 4
"""Starting noises that the instance prompt is asked about, in two UNet forwards each."""

_FLOOR = 1e-12


def departure(base: Tensor, now: Tensor) -> float:
    """Mean squared distance of predictions to the base's, relative to the mean square of the base's.

    The integrand of the latent Fisher divergence between the two models (Infusion, arXiv:2404.14007), at the
    noise levels that were asked. 0 for the base itself; without an upper bound.

    >>> departure(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0]))
    0.04

    Args:
        base: The base's predictions, any shape.
        now: The checkpoint's of the same noisy latents and prompts, of that shape.
    """
    moved = (now.double() - base.double()).square().mean()
    return (moved / base.double().square().mean().clamp(min=_FLOOR)).item()


@torch.no_grad()
def first_steps(
    model: StableDiffusion,
    scheduler: Any,
    input_ids: Tensor,
    shape: torch.Size | tuple[int, ...],
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    batch: Batch | None = None,
) -> Tensor:
    """What the instance prompt adds to the prediction from nothing but noise, at the noisiest timestep.

    The magnitude of the text-conditional prediction at the first sampling step, by which prompts that a model
    has memorised are found (Wen et al., ICLR 2024, arXiv:2407.21720, section 4).

    Args:
        model: The parts; UNet and text encoder on one device. The caller sets evaluation mode.
        scheduler: A diffusers ``DDPMScheduler`` of the model's noise schedule.
        input_ids: Token ids of the instance prompt as the fit pads it, shape (1, tokens).
        shape: A latent's, (c, h, w).
        forward_context: Makes the context of the networks' calls, such as autocast.
        batch: How many are asked together; None to begin with all seeds.

    Returns:
        Mean squared difference to the prediction with the empty prompt, for each of ``SEEDS`` starting
        noises; float64 on the CPU, shape (seeds,).
    """
    device, dtype = model.unet.device, model.unet.dtype
    with forward_context():
        states = model.text_encoder(input_ids.to(model.text_encoder.device))[0].to(dtype)
        empty = encode_prompts(model, [""]).to(dtype)
    drawn = [torch.randn(tuple(shape), generator=generator(0, "first step", seed)) for seed in range(SEEDS)]
    noise = torch.stack(drawn).to(device, dtype)
    timesteps = torch.full((SEEDS,), scheduler.config.num_train_timesteps - 1, device=device)
    batch = batch or Batch(things="starting noises")
    # Apart, because the instance prompt may be padded otherwise.
    prompted, unprompted = (
        predictions(model, noise, timesteps, each.expand(SEEDS, -1, -1), forward_context, batch)
        for each in (states, empty)
    )
    return (prompted - unprompted).square().mean((1, 2, 3)).double().cpu()


def prompt_force(base: Tensor, now: Tensor) -> float:
    """`first_steps` against the base's: 1 for the base; the geometric mean of the ratios over the seeds.

    >>> prompt_force(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 8.0]))
    2.0
    """
    logs = now.double().clamp(min=_FLOOR).log() - base.double().clamp(min=_FLOOR).log()
    return logs.mean().exp().item()
