"""Pictures by samplers that the package does not have, to learn what few steps are worth with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from PIL import Image

from lightning_drift.stable_diffusion.autoencoder import decode_latent
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.prompt_states import EncodedPrompts
from lightning_drift.stable_diffusion.sampling import (
    NOISE_SCHEDULE,
    Sampling,
    latent_shape,
    predict_noise,
    starting_noise,
)

SOLVERS: dict[str, Callable[..., Any]] = {
    "dpmpp_2m": partial(DPMSolverMultistepScheduler, timestep_spacing="linspace", solver_order=2),
    "ddim_trailing": partial(
        DDIMScheduler, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False
    ),
}
"""By name: DPM-Solver++ 2M (Lu et al., arXiv:2211.01095) over evenly spaced timesteps from the last training
timestep on; and DDIM that begins there too, as Lin et al. (arXiv:2305.08891, section 3.3) space few steps.
The package's DDIM with ten steps begins at timestep 901."""


@torch.no_grad()
def dream_by(
    solver: str, model: StableDiffusion, pictures: Sequence[tuple[str, int]], sampling: Sampling
) -> list[Image.Image]:
    """Pictures of (prompt, seed) as `dream_all` makes them in one batch, but by another sampler.

    Args:
        solver: One of ``SOLVERS``.
        model: UNet and text encoder on the CPU, in evaluation mode.
        pictures: A prompt and a seed for each picture.
        sampling: Steps, guidance (above 1) and size.
    """
    config: Mapping[str, Any] = model.scheduler_config
    own = {name: config[name] for name in NOISE_SCHEDULE if config.get(name) is not None}
    own.pop("timestep_spacing", None)
    scheduler = SOLVERS[solver](**own)
    scheduler.set_timesteps(sampling.num_inference_steps)
    encode, scale = EncodedPrompts(), torch.full((1, 1, 1, 1), sampling.guidance_scale)
    states = encode(model, [prompt for prompt, _ in pictures])
    condition = torch.cat([encode(model, [sampling.negative_prompt]).expand_as(states), states])
    shape = (1, *latent_shape(model, sampling))
    latents = torch.cat([starting_noise(seed, shape) for _, seed in pictures])
    for timestep in scheduler.timesteps:
        prediction = predict_noise(model, latents, timestep, condition, scale)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return [decode_latent(model, latent) for latent in latents]
