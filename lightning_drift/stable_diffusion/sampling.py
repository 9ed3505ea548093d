"""Dreams: pictures from prompts and seeds by deterministic DDIM, one starting noise a seed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.stable_diffusion.autoencoder import decode_latent, vae_factor
from lightning_drift.stable_diffusion.loading import StableDiffusion

# What a DDIM of the same model shares with the scheduler that the model was saved with.
NOISE_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
    "timestep_spacing",
)


def ddim(scheduler_config: Mapping[str, Any]) -> DDIMScheduler:
    """The recipe's sampler over a model's own noise schedule: DDIM (Song et al. 2021, eq. 12, eta 0).

    ``clip_sample`` and ``set_alpha_to_one`` are off and ``steps_offset`` is 1, as the stock Stable Diffusion
    pipeline runs it; for SD v1.5 the betas are scaled-linear from 0.00085 to 0.012.

    Args:
        scheduler_config: The configuration of any diffusers scheduler of the model.
    """
    schedule = {key: scheduler_config[key] for key in NOISE_SCHEDULE if scheduler_config.get(key) is not None}
    return DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def native_size(model: StableDiffusion) -> int:
    """The side in pixels that the model was trained at: 512 for SD v1.5, 64 for the pocket."""
    return int(model.unet.config.sample_size) * vae_factor(model)


def check_size(model: StableDiffusion, option: str, height: int | None, width: int | None) -> None:
    """Refuse a picture size that is not a whole number of latent cells.

    Raises:
        UserError: Height or width is not a multiple of a latent cell's side (8 pixels for SD v1.5).
    """
    check_cells(vae_factor(model), option, height, width)


def check_cells(cell: int, option: str, height: int | None, width: int | None) -> None:
    """Likewise, for latent cells of so many pixels.

    Raises:
        UserError: Height or width is not a multiple of a latent cell's side.
    """
    for name, size in (("height", height), ("width", width)):
        if size is not None and (size < cell or size % cell):
            raise UserError(
                f"{size} is not a multiple of {cell} pixels, which this model needs", f"{option}.{name}"
            )


def encode_prompts(model: StableDiffusion, prompts: Sequence[str]) -> Tensor:
    """Text-encoder states of prompts, padded to the tokenizer's maximum, [len(prompts), tokens, width].

    A prompt longer than the maximum (77 tokens for SD v1.5) is cut there, as every Stable Diffusion tool
    does.
    """
    tokens = model.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=model.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    states: Tensor = model.text_encoder(tokens.input_ids.to(model.text_encoder.device))[0]
    return states


def starting_noise(seed: int, shape: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
    """Unit normal noise of one seed, float32, drawn on ``device`` as ``torch.Generator(device)`` draws it."""
    seeded = torch.Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=seeded, device=device, dtype=torch.float32)


@torch.no_grad()
def dream(
    model: StableDiffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative_prompt: str = "",
    guidance_scale: float | Sequence[float] = 3.0,
    num_inference_steps: int = 50,
    height: int | None = None,
    width: int | None = None,
    generator_device: str | torch.device = "cpu",
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    encode: Callable[[StableDiffusion, Sequence[str]], Tensor] = encode_prompts,
) -> list[Image.Image]:
    """Sample one picture for each pair of prompt and seed, all in one batch.

    Classifier-free guidance (Ho & Salimans 2022, eq. 6) is applied above a scale of 1; the sampler's
    arithmetic and the autoencoder run in float32 whatever the UNet's precision. Nothing but the seeds decides
    the noise, and no global generator is touched. The caller sets evaluation mode.

    Args:
        model: The parts; UNet and text encoder on one device, the autoencoder anywhere (it is used where it
            lies).
        prompts: One prompt a picture.
        seeds: One seed a picture, as many as prompts.
        negative_prompt: Takes the place of the empty prompt in the guidance.
        guidance_scale: 1 or less samples without guidance. One for all pictures or one for each, then all
            above 1 or none.
        num_inference_steps: DDIM steps, 1 to the number of training timesteps.
        height: Pixels, a multiple of 8 for SD v1.5; None means the model's own size.
        width: Likewise.
        generator_device: Where starting noise is drawn; "cpu" gives the same picture on any machine.
        forward_context: Makes the context of the networks' calls, such as autocast.
        encode: Gives the text-encoder states of prompts.

    Returns:
        RGB pictures in the order of the seeds.

    Raises:
        ValueError: Some guidance scales are above 1 and some are not.
    """
    factor = vae_factor(model)
    height, width = height or native_size(model), width or native_size(model)
    shape = (1, int(model.unet.config.in_channels), height // factor, width // factor)
    device = model.unet.device
    scheduler = ddim(model.scheduler_config)
    scheduler.set_timesteps(num_inference_steps, device=device)
    scales = [guidance_scale] if isinstance(guidance_scale, int | float) else list(guidance_scale)
    guided = any(scale > 1.0 for scale in scales)
    if guided and not all(scale > 1.0 for scale in scales):
        raise ValueError("pictures with and without guidance are not sampled together")
    scale = torch.tensor(scales, dtype=torch.float32, device=device).view(-1, 1, 1, 1)
    latents = torch.cat([starting_noise(seed, shape, generator_device) for seed in seeds]).to(device)
    with forward_context():
        texts = list(dict.fromkeys([negative_prompt, *prompts] if guided else prompts))
        states = encode(model, texts).to(model.unet.dtype)
        condition = states[[texts.index(prompt) for prompt in prompts]]
        if guided:
            condition = torch.cat([states[texts.index(negative_prompt)].expand_as(condition), condition])
        for timestep in scheduler.timesteps:
            noisy = torch.cat([latents, latents]) if guided else latents
            prediction = model.unet(noisy.to(model.unet.dtype), timestep, condition, return_dict=False)[
                0
            ].float()
            if guided:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + scale * (conditional - unconditional)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return [decode_latent(model, latent) for latent in latents]
