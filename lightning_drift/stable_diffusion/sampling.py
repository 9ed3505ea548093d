"""Dreams: pictures from prompts and seeds by deterministic DDIM; each seed has one starting noise."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.halving import Batch
from lightning_drift.common.numbers import MOST_TOGETHER, real, whole
from lightning_drift.common.prompt_lists import check_text
from lightning_drift.stable_diffusion.autoencoder import decode_latent, vae_factor
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.prompt_states import EncodedPrompts, encode_prompts
from lightning_drift.stable_diffusion.with_base import Prediction, WithBase

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


UPDATES = "latent updates"
"""Where a new picture's ``info`` holds how much its sampling steps changed."""

DRIFT_MAP = "drift map"
"""Where it holds its map; see `WithBase`."""

MOST_STEPS = 1000
"""DDIM steps at most: the training timesteps of Stable Diffusion 1.x."""


MOST_SIDE = 8192
"""Pixels along a side of a picture at most."""

MOST_PIXELS = 2**24
"""Pixels of a picture at most: 4096x4096, 64 times what Stable Diffusion 1.x was trained at."""


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled: what decides them beside the model, the prompt and the seed.

    Attributes:
        num_inference_steps: DDIM steps, 1 to 1000.
        guidance_scale: Classifier-free guidance, 0 to 100; at 1 or less there is none.
        negative_prompt: What to steer away from; it takes the place of the empty prompt in the guidance.
        height: Pixels, a whole number of latent cells (8 for SD v1.5), at most 8192; None for the model's own
            size. Height times width is at most 16.8 megapixels.
        width: Likewise.
        batch_size: Pictures that `dream_all` samples together, 1 to 1024; changes pictures by rounding only.
        generator_device: Where the starting noise is drawn: "cpu" gives the same picture on any machine,
            "cuda" the noise of ``torch.Generator("cuda")`` on the model's device.

    Raises:
        UserError: A number is out of range; the error's option is the attribute's name.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 3.0
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    batch_size: int = 4
    generator_device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        check_text(self.negative_prompt, "negative_prompt")
        whole(self.num_inference_steps, "num_inference_steps", 1, MOST_STEPS)
        real(self.guidance_scale, "guidance_scale", 0, 100)
        whole(self.batch_size, "batch_size", 1, MOST_TOGETHER)
        for name, size in (("height", self.height), ("width", self.width)):
            if size is not None:
                whole(size, name, 1, MOST_SIDE)
        if (self.height or 0) * (self.width or 0) > MOST_PIXELS:
            raise UserError(
                f"{self.width}x{self.height} is more than {MOST_PIXELS / 1e6:.1f} megapixels; give less",
                "width",
            )

    @classmethod
    def read(cls, option: str, **values: Any) -> "Sampling":
        """Make it from the values of options that begin with a name.

        Raises:
            UserError: A value is refused; the error names the option, such as ``seed_grid.guidance_scale``.
        """
        try:
            return cls(**values)
        except UserError as error:
            raise error.of(f"{option}.{error.option}") from error

    def settings(self) -> dict[str, Any]:
        """What decides a picture's bits on one device, in plain values by name; `read` takes them back."""
        return {name: value for name, value in asdict(self).items() if name != "generator_device"}

    def check_device(self, option: str) -> None:
        """Refuse to draw noise on a device that is not there.

        Raises:
            UserError: ``generator_device`` is "cuda" and there is no CUDA device.
        """
        if self.generator_device == "cuda" and not torch.cuda.is_available():
            raise UserError("there is no CUDA device here; use cpu", f"{option}.generator_device")


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


def starting_noise(seed: int, shape: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
    """Unit normal noise of one seed, float32, drawn on ``device`` as ``torch.Generator(device)`` draws it."""
    seeded = torch.Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=seeded, device=device, dtype=torch.float32)


@torch.no_grad()
def dream(
    model: StableDiffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    *,
    guidance_scales: Sequence[float] | None = None,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    encode: Callable[[StableDiffusion, Sequence[str]], Tensor] = encode_prompts,
    beside: WithBase | None = None,
) -> list[Image.Image]:
    """Sample one picture for each pair of prompt and seed, all in one batch.

    Classifier-free guidance (Ho & Salimans 2022, eq. 6) is applied above a scale of 1; the sampler's
    arithmetic and the autoencoder run in float32 whatever the UNet's precision. Nothing but the seeds decides
    the noise, and no global generator is touched. The caller sets evaluation mode.

    Args:
        model: UNet and text encoder on one device, the autoencoder anywhere (it is used where it lies).
        prompts: One prompt per picture.
        seeds: One seed per picture.
        sampling: How to sample; None for the defaults. Its batch size is not used.
        guidance_scales: One scale per picture in place of ``sampling.guidance_scale``; all above 1 or none.
        forward_context: Makes the context of the networks' calls, such as autocast.
        encode: Gives the text-encoder states of prompts.
        beside: The base that denoises beside the model; None for the model alone.

    Returns:
        RGB pictures in the order of the seeds; each has in its ``info``, under ``UPDATES``, the mean square
        of what a step changed in a latent's element, and under ``DRIFT_MAP`` its map, where there is one.

    Raises:
        ValueError: Some guidance scales are above 1 and some are not.
    """
    sampling = sampling or Sampling()
    shape = (1, *latent_shape(model, sampling))
    device = model.unet.device
    scheduler = ddim(model.scheduler_config)
    scheduler.set_timesteps(sampling.num_inference_steps, device=device)
    scales = guidance_scales or [sampling.guidance_scale]
    guided = any(scale > 1.0 for scale in scales)
    if guided and not all(scale > 1.0 for scale in scales):
        raise ValueError("pictures with and without guidance are not sampled together")
    scale = torch.tensor(scales, dtype=torch.float32, device=device).view(-1, 1, 1, 1)
    drawn_on = device if sampling.generator_device == "cuda" else torch.device("cpu")
    latents = torch.cat([starting_noise(seed, shape, drawn_on) for seed in seeds]).to(device)
    negative = sampling.negative_prompt if guided else None
    steps = len(scheduler.timesteps)
    with forward_context():
        condition = _condition(model, prompts, negative, encode)
        mixed, guidance = Prediction(beside, scheduler), scale if guided else None
        base_condition = _condition(beside.model, prompts, negative, beside.encode) if beside else condition
        base = beside.model if beside else model
        updates = torch.zeros(len(latents), device=device)
        for number, timestep in enumerate(scheduler.timesteps):
            prediction = mixed(
                number,
                partial(predict_noise, model, latents, timestep, condition, guidance),
                partial(predict_noise, base, latents, timestep, base_condition, guidance),
            )
            before, latents = latents, scheduler.step(prediction, timestep, latents, return_dict=False)[0]
            updates += (latents - before).square().mean((1, 2, 3))
    images = [decode_latent(model, latent) for latent in latents]
    for image, update in zip(images, (updates / steps).tolist(), strict=True):
        image.info[UPDATES] = update
    for image, drift_map in zip(images, mixed.maps(images[0].size), strict=False):
        image.info[DRIFT_MAP] = drift_map
    return images


def _condition(
    model: StableDiffusion,
    prompts: Sequence[str],
    negative: str | None,
    encode: Callable[[StableDiffusion, Sequence[str]], Tensor],
) -> Tensor:
    """The states of prompts, [b, tokens, width]; under guidance those of the negative one before them."""
    texts = list(dict.fromkeys(prompts if negative is None else [negative, *prompts]))
    states = encode(model, texts).to(model.unet.dtype)
    condition = states[[texts.index(prompt) for prompt in prompts]]
    if negative is None:
        return condition
    return torch.cat([states[texts.index(negative)].expand_as(condition), condition])


def predict_noise(
    model: StableDiffusion, latents: Tensor, timestep: Tensor, condition: Tensor, scale: Tensor | None
) -> Tensor:
    """The noise in latents [b, 4, h, w], float32; with guidance where there is a scale, [b, 1, 1, 1]."""
    noisy = latents if scale is None else torch.cat([latents, latents])
    noisy = noisy.to(model.unet.dtype)
    prediction: Tensor = model.unet(noisy, timestep, condition, return_dict=False)[0].float()
    if scale is None:
        return prediction
    unconditional, conditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def latent_shape(model: StableDiffusion, sampling: Sampling) -> tuple[int, int, int]:
    """Channels, height and width of a picture's latents."""
    factor, side = vae_factor(model), native_size(model)
    height, width = sampling.height or side, sampling.width or side
    return int(model.unet.config.in_channels), height // factor, width // factor


def even(count: int, most: int) -> int:
    """How many of ``count`` pictures are sampled together, at most ``most``: batches are of one size.

    >>> even(12, 8)
    6
    """
    return -(-count // -(-count // most)) if count else most


def dream_all(
    model: StableDiffusion,
    pictures: Sequence[tuple[str, int]],
    sampling: Sampling,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    made: Callable[[Sequence[Image.Image]], object] = bool,
    batch: Batch | None = None,
    encode: EncodedPrompts | None = None,
    beside: WithBase | None = None,
) -> list[Image.Image]:
    """Sample pictures of (prompt, seed) in batches; see `dream`.

    Every batch is filled up to one size, and a batch that does not fit into the memory is halved. A picture
    then follows from its prompt and seed and that size, whatever else is sampled.

    Args:
        model: As for `dream`.
        pictures: A prompt and a seed for each picture.
        sampling: How to sample; its batch size is the largest.
        forward_context: As for `dream`.
        made: Called with the new pictures after each batch.
        batch: Their batches, where the caller knows the size; it takes the place of ``sampling.batch_size``.
        encode: Prompts that were encoded already, by this model with these weights.
        beside: As for `dream`.
    """
    batch = batch or Batch(even(len(pictures), sampling.batch_size), filled=True)
    encode = encode or EncodedPrompts()

    def some(part: Sequence[tuple[str, int]]) -> list[Image.Image]:
        prompts, seeds = zip(*part, *[part[-1]] * ((batch.size or 0) - len(part)), strict=True)
        images = dream(
            model, prompts, seeds, sampling, forward_context=forward_context, encode=encode, beside=beside
        )
        made(images[: len(part)])
        return images[: len(part)]

    return batch.map(pictures, some)
