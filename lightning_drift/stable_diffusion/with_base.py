"""Base and fine-tune denoise together: e0 + a (e - e0), and where in a picture the two differ.

e0 and e are the noise that base and fine-tune predict in one latent, each with its own text encoder and under
guidance. With a above 1 this is autoguidance (Karras et al. 2024, arXiv:2406.02507), and the base is what
guides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from lightning_drift.images.overlay import overlay
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.prompt_states import EncodedPrompts
from lightning_drift.stable_diffusion.sampling_drift import SamplingDrift, over_steps

MAPPED_STEPS = 10
"""Sampling steps at most at which predictions are compared for a map."""

_CLEAR, _DENSE, _MOST = 0.5, 0.995, 0.85
"""A map is clear up to the median of its differences, and 85 % opaque from their 99.5th percentile on."""


@dataclass
class WithBase:
    """The base that denoises beside its fine-tune.

    Attributes:
        model: The base, its UNet and text encoder on the fine-tune's device and in its precision.
        drift: How far the fine-tune's prediction counts, at each step.
        maps: Whether pictures come with a map of where the two differ.
        encode: Gives the base's text-encoder states of prompts.
    """

    model: StableDiffusion
    drift: SamplingDrift = 1.0
    maps: bool = False
    encode: Callable[[StableDiffusion, Sequence[str]], Tensor] = field(default_factory=EncodedPrompts)


class Prediction:
    """The prediction of one batch's steps.

    At a drift of 0 it is the base's and at 1 the fine-tune's, to the bit, and the other one is not asked.

    Args:
        beside: The base; None where the model denoises alone.
        scheduler: The sampler, its timesteps set.
    """

    def __init__(self, beside: WithBase | None, scheduler: DDIMScheduler) -> None:
        steps = len(scheduler.timesteps)
        self._scheduler = scheduler
        self._drifts = over_steps(beside.drift if beside else 1.0, steps)
        self._mapped = mapped_steps(steps) if beside and beside.maps else set()
        self._squares: Tensor | None = None

    def __call__(self, number: int, own: Callable[[], Tensor], base: Callable[[], Tensor]) -> Tensor:
        """The prediction [b, 4, h, w] of a step.

        Args:
            number: Which step.
            own: Asks the fine-tune.
            base: Asks the base.
        """
        drift, mapped = self._drifts[number], number in self._mapped
        if drift in (0, 1) and not mapped:
            return own() if drift else base()
        tuned, untouched = own(), base()
        if mapped:
            squares = (self._move(number) * (tuned - untouched)).square().mean(1)
            self._squares = squares if self._squares is None else self._squares + squares
        if drift in (0, 1):
            return tuned if drift else untouched
        return torch.lerp(untouched, tuned, drift)

    def _move(self, number: int) -> Tensor:
        """How far a step moves a latent for a prediction of 1; the sampler is linear in predictions."""
        timestep = self._scheduler.timesteps[number]
        one = torch.ones((), device=timestep.device)
        moved: Tensor = self._scheduler.step(one, timestep, torch.zeros_like(one), return_dict=False)[0]
        return moved

    def maps(self, size: tuple[int, int]) -> list[Image.Image]:
        """The maps of the batch's pictures, of a width and height; none where none were asked for."""
        return [] if self._squares is None else [drift_map(each, size) for each in self._squares.sqrt().cpu()]


def mapped_steps(steps: int) -> set[int]:
    """The steps at which predictions are compared: all, or ten from the first to the last.

    >>> sorted(mapped_steps(50))
    [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]
    """
    count = min(steps, MAPPED_STEPS)
    return {round(k * (steps - 1) / max(1, count - 1)) for k in range(count)}


def predictions(drift: SamplingDrift, steps: int, maps: bool) -> int:
    """How many predictions of base and fine-tune so many steps take together.

    >>> predictions(1.0, 50, False), predictions(1.0, 50, True), predictions(0.5, 50, True)
    (50, 60, 100)
    """
    mapped = mapped_steps(steps) if maps else set()
    return sum(1 + (a not in (0, 1) or step in mapped) for step, a in enumerate(over_steps(drift, steps)))


def drift_map(difference: Tensor, size: tuple[int, int]) -> Image.Image:
    """A picture of where predictions differ most, to lay over theirs.

    Args:
        difference: How differently base and fine-tune move each element of a latent, [h, w]: the root mean
            square over channels and steps.
        size: Width and height of the picture in pixels.

    Returns:
        RGBA, one colour. It tells places of one picture apart, and nothing of how much they differ.
    """
    clear, dense = difference.quantile(_CLEAR), difference.quantile(_DENSE)
    opacity = ((difference - clear) / (dense - clear).clamp(min=1e-12)).clamp(0, 1) * _MOST
    grey = Image.fromarray(opacity.mul(255).round().to(torch.uint8).numpy())
    return overlay(grey.resize(size, Image.Resampling.BICUBIC))
