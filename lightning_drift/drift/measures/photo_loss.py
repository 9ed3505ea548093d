"""The loss on the photos: has the denoiser become better at the photos it was trained on, or worse?

A fit lowers the denoising loss on its own photos from the first steps on, because that is what it minimises.
Random changes of the weights raise it, even where they happen to make the pictures more like the photos to a
CLIP. So it tells a drift from damage, without sampling a picture.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.halving import Batch
from lightning_drift.common.rng import generator
from lightning_drift.drift.measures.intervals import Interval, SeedDraws
from lightning_drift.drift.measures.noise_levels import NOISE_LEVELS
from lightning_drift.drift.measures.predictions import predictions
from lightning_drift.stable_diffusion.loading import StableDiffusion

FORWARDS = 40
"""UNet forwards of one latent that a measurement may take."""

_FLOOR = 1e-12


def shown(photos: int) -> list[int]:
    """Which photos are looked at: all, or ten of them, evenly spread, if the forwards do not suffice for all.

    >>> shown(3), shown(21)
    ([0, 1, 2], [0, 2, 4, 6, 8, 10, 12, 14, 16, 18])
    """
    most = min(photos, FORWARDS // len(NOISE_LEVELS))
    return [index * photos // most for index in range(most)]


def photo_errors(
    model: StableDiffusion,
    scheduler: Any,
    latents: Tensor,
    input_ids: Tensor,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    batch: Batch | None = None,
) -> Tensor:
    """The training loss (Ho et al. 2020, eq. 14) on photos at ``NOISE_LEVELS``, with fixed noise.

    The noise follows from photo and level, so that two measurements differ by the weights alone (common
    random numbers). Takes one forward per photo and level, with the levels of a photo as one batch, or as
    several where that does not fit into the memory. The caller sets evaluation mode.

    Args:
        model: The parts; UNet and text encoder on one device.
        scheduler: A diffusers ``DDPMScheduler`` of the model's noise schedule.
        latents: Scaled latents of the photos, shape (n, c, h, w).
        input_ids: Token ids of the instance prompt as the fit pads it, shape (1, tokens).
        forward_context: Makes the context of the networks' calls, such as autocast.
        batch: Keeps a size that fitted; None to begin with all levels.

    Returns:
        Mean squared error of the predicted noise, or velocity of a v-prediction model, over a latent's
        elements, at least 0; float64 on the CPU, shape (n, levels).
    """
    return photo_predictions(model, scheduler, latents, input_ids, forward_context, batch)[0]


@torch.no_grad()
def photo_predictions(
    model: StableDiffusion,
    scheduler: Any,
    latents: Tensor,
    input_ids: Tensor,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    batch: Batch | None = None,
    numbers: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `photo_errors` gives, and the predictions themselves.

    Args:
        model: As for `photo_errors`.
        scheduler: Likewise.
        latents: Likewise.
        input_ids: Likewise.
        forward_context: Likewise.
        batch: Likewise.
        numbers: Which photos are shown together, one for each level, shape (n, levels); None to show each
            photo at every level.

    Returns:
        The errors, shape (n, levels), and the predictions, float32 on the CPU, shape (n, levels, c, h, w).
    """
    device, dtype = model.unet.device, model.unet.dtype
    with forward_context():
        states = model.text_encoder(input_ids.to(model.text_encoder.device))[0].to(dtype)
    steps = scheduler.config.num_train_timesteps
    timesteps = torch.tensor([round(level * steps) for level in NOISE_LEVELS], device=device)
    batch, errors, found = batch or Batch(things="noise levels"), [], []
    if numbers is None:
        numbers = torch.arange(len(latents))[:, None].expand(-1, len(NOISE_LEVELS))
    for photos in numbers.tolist():
        drawn = [
            torch.randn(latents.shape[1:], generator=generator(0, "photo loss", photo, level))
            for level, photo in enumerate(photos)
        ]
        clean, noise = latents[photos].to(device), torch.stack(drawn).to(device)
        noisy, target = scheduler.add_noise(clean, noise, timesteps), noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(clean, noise, timesteps)

        condition = states.expand(len(noise), -1, -1)
        predicted = predictions(model, noisy.to(dtype), timesteps, condition, forward_context, batch)
        errors.append((predicted - target).square().mean((1, 2, 3)).double().cpu())
        found.append(predicted.cpu())
    return torch.stack(errors), torch.stack(found)


def photo_loss(base: Tensor, now: Tensor) -> Interval:
    """The loss on the photos relative to the base's: 1 the base, below 1 better at the photos, above 1 worse.

    The geometric mean over photos and noise levels of the ratio of errors, so that levels weigh the same,
    though the errors at little noise are many times larger. The interval is a bootstrap over photos, or over
    levels where there is one photo.

    >>> base = torch.tensor([[0.4, 0.1], [0.8, 0.2]])
    >>> photo_loss(base, base)
    Interval(value=1.0, low=1.0, high=1.0)
    >>> halved = photo_loss(base, base * torch.tensor([[0.5], [0.125]]))
    >>> round(halved.value, 6), halved.low < 0.25 < halved.high
    (0.25, True)

    Args:
        base: The base's `photo_errors`, shape (n, levels).
        now: The checkpoint's.
    """
    change = now.double().clamp(min=_FLOOR).log() - base.double().clamp(min=_FLOOR).log()
    units = change.mean(1) if len(change) > 1 else change[0]
    draws = SeedDraws([("photos", number) for number in range(len(units))])
    logs = draws.interval(draws.mean(units))
    return Interval(*(math.exp(log) for log in (logs.value, logs.low, logs.high)))
