"""The language probe: asks the denoiser alone what prompts still mean to it, without sampling a picture.

Noisy latents of the base model's own pictures are shown to the UNet with every probe prompt and with the
empty one. It explains and decides nothing: on the pocket, guidance and sensitivity rise and fall on the way
to a cooked model, and the accuracy of so few trials is coarse.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.halving import Batch
from lightning_drift.common.rng import generator
from lightning_drift.drift.measures.intervals import against_base
from lightning_drift.drift.measures.predictions import predictions
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.prompt_states import encode_prompts

FORWARDS = 40
"""UNet forwards of one latent with one prompt that a probe may take."""

NOISE_LEVELS = (0.25, 0.45, 0.65, 0.8)
"""Shares of the training timesteps: where prompts decide content and not yet, or no longer, detail."""

_FLOOR = 1e-12


@dataclass(frozen=True)
class Trial:
    """One noisy latent, seen under every prompt.

    Attributes:
        prompt: Index of the prompt that its picture was made with.
        picture: Which of that prompt's pictures, from 0.
        timestep: How noisy it is made.
    """

    prompt: int
    picture: int
    timestep: int


def trials(prompts: int, timesteps: int = 1000) -> list[Trial]:
    """As many trials as the forwards allow, spread over prompts, pictures and noise levels.

    >>> [len(trials(count)) * (count + 1) for count in (2, 4, 8, 12)]
    [39, 40, 36, 39]

    Args:
        prompts: Number of probe prompts, 2 to 39.
        timesteps: Number of the noise schedule's training timesteps.
    """
    count = FORWARDS // (prompts + 1)
    levels = len(NOISE_LEVELS)
    return [
        Trial(
            prompt=index * prompts // count if count < prompts else index % prompts,
            picture=index // prompts,
            timestep=round(NOISE_LEVELS[(index + index // prompts) % levels] * timesteps),
        )
        for index in range(count)
    ]


@torch.no_grad()
def probe(
    model: StableDiffusion,
    scheduler: Any,
    prompts: Sequence[str],
    latents: Tensor,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    batch: Batch | None = None,
    seen: list[Tensor] | None = None,
) -> dict[str, float]:
    """What prompts do to the denoiser's prediction, as plain energies; `relative` sets them against the base.

    The noise of each trial is fixed, so that two probes differ by the weights alone. The caller sets
    evaluation mode.

    Args:
        model: The parts; UNet and text encoder on one device.
        scheduler: A diffusers ``DDPMScheduler`` of the model's noise schedule.
        prompts: The probe prompts.
        latents: Latents of the base's pictures, one per trial of `trials`, shape (n, c, h, w).
        forward_context: Makes the context of the networks' calls, such as autocast.
        batch: How many prompts are asked together, where the caller keeps a size that fitted; None to begin
            with all.
        seen: Takes the predictions with the prompts of each trial, float32 on the CPU, shape (p, c, h, w).

    Returns:
        ``guidance``: mean squared difference between the predictions with a prompt and with the empty one,
        what classifier-free guidance works with (its rise under memorisation: Wen et al., ICLR 2024).
        ``sensitivity``: variance of the prediction over the prompts. ``dc_accuracy``: share of trials whose
        own prompt predicts the noise best (diffusion classifier, Li et al., arXiv:2303.16203, with one draw
        per picture).
    """
    device, dtype = model.unet.device, model.unet.dtype
    with forward_context():
        states = encode_prompts(model, [*prompts, ""]).to(dtype)
    plan = trials(len(prompts), scheduler.config.num_train_timesteps)
    batch = batch or Batch(things="prompts")
    sums = {"guidance": 0.0, "sensitivity": 0.0, "dc_accuracy": 0.0}
    for number, (trial, latent) in enumerate(zip(plan, latents, strict=True)):
        drawn = torch.randn(latent.shape, generator=generator(0, "language probe", number))
        clean, noise = latent[None].to(device), drawn[None].to(device)
        timestep = torch.tensor([trial.timestep], device=device)
        noisy = scheduler.add_noise(clean, noise, timestep)
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(clean, noise, timestep)

        same, steps = noisy.to(dtype).expand(len(states), -1, -1, -1), timestep.expand(len(states))
        predicted = predictions(model, same, steps, states, forward_context, batch)
        prompted, empty = predicted[:-1], predicted[-1:]
        if seen is not None:
            seen.append(prompted.cpu())
        sums["guidance"] += float((prompted - empty).square().mean())
        sums["sensitivity"] += float(prompted.var(0, unbiased=False).mean())
        errors = (prompted - target).square().mean((1, 2, 3))
        sums["dc_accuracy"] += float(errors.argmin() == trial.prompt)
    return {name: total / len(plan) for name, total in sums.items()}


def relative(base: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """A probe's energies as ratios to the base's, 1 for the base itself; the accuracy as it is.

    >>> relative({"guidance": 2.0, "dc_accuracy": 1.0}, {"guidance": 1.0, "dc_accuracy": 0.5})
    {'guidance': 0.5, 'dc_accuracy': 0.5}
    """

    def ratio(name: str, value: float) -> float:
        if name == "dc_accuracy":
            return value
        return float(against_base(torch.tensor(value).double(), torch.tensor(base[name]).double(), _FLOOR))

    return {name: ratio(name, value) for name, value in now.items()}
