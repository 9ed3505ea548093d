"""Seconds of a step and of a grid, on a device with random weights, or calculated for a card."""

import time
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch

from lightning_drift.common.modules import eval_mode
from lightning_drift.forecast.card import Card
from lightning_drift.forecast.plan import Times
from lightning_drift.forecast.rehearsal import PRECISIONS, Rehearsal, Scene, trained_over, training_step
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.opened_pipeline import PARTS
from lightning_drift.stable_diffusion.sampling import Sampling, dream

QUICK = 5e10
"""Arithmetic of a step, in FLOP, that a CPU is asked to do for a plan: a second or so."""


class TimedGrid(Protocol):
    """The pictures of a milestone, as `SeedGrid` has them.

    Attributes:
        sampling: How they are sampled, but for their steps.
        together: Pictures that are sampled together.
        predictions: Guided predictions of a milestone's pictures.
        count: These pictures.
    """

    sampling: Sampling

    @property
    def together(self) -> int: ...  # noqa: D102

    @property
    def predictions(self) -> int: ...  # noqa: D102

    @property
    def count(self) -> int: ...  # noqa: D102


def calculated(told: Rehearsal, grid: TimedGrid | None, card: Card) -> Times | None:
    """Seconds from arithmetic and a card's name; None where that tells nothing.

    Args:
        told: What was counted.
        grid: The pictures of a milestone; None without any.
        card: The card.
    """
    step = card.seconds(told.work["step"])
    if step is None:
        return None
    pictures = None
    if grid is not None and "grids" in told.work:
        forward, decoding = card.seconds(told.work["grids"]), card.seconds(told.work["decoding"])
        assert forward is not None
        assert decoding is not None
        pictures = forward * grid.predictions / grid.together + decoding * grid.count
    late = card.seconds(told.work.get("late step", told.work["step"]))
    return Times(step, pictures, f"calculated from the arithmetic and the data sheet of {card.name}", late)


def timed(
    module: Any, base: StableDiffusion, scene: Scene, grid: TimedGrid | None, device: torch.device
) -> Times:
    """Seconds on a device, with random weights of the base's shapes.

    Args:
        module: A `DreamBooth`; not changed.
        base: Its base, on the meta device.
        scene: What decides a step.
        grid: The pictures of a milestone; None without any.
        device: Where to compute.

    Raises:
        torch.OutOfMemoryError: It has no room.
    """
    model = _random(base, device)
    context = _Context(device, scene)
    twin, optimizer = trained_over(module, model, scene)
    step = late = _seconds(lambda: training_step(twin, optimizer, scene, context), device, count=2)
    if module.train_text_encoder_steps is not None:
        twin._trainer.global_step = module.train_text_encoder_steps
        late = _seconds(lambda: training_step(twin, optimizer, scene, context), device, count=2)
    pictures = None
    if grid is not None:
        sampling = replace(grid.sampling, batch_size=grid.together)
        with eval_mode(twin.unet, twin.text_encoder):
            short = _seconds(partial(_dreams, model, sampling, context, 1), device)
            long = _seconds(partial(_dreams, model, sampling, context, 3), device, warm=False)
        slope = max(0.0, long - short) / 2
        rest = max(0.0, short - slope) * grid.count
        pictures = (slope * grid.predictions + rest) / grid.together
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    return Times(step, pictures, f"timed on {name} with random weights", late)


class _Context:
    """Makes the context of the networks' calls, as the Trainer's precision does."""

    def __init__(self, device: torch.device, scene: Scene) -> None:
        self.device, self.dtype = device, PRECISIONS[scene.precision]

    def __call__(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)


def _random(base: StableDiffusion, device: torch.device) -> StableDiffusion:
    parts: dict[str, Any] = {part: deepcopy(getattr(base, part)).to_empty(device=device) for part in PARTS}
    with torch.no_grad():
        for part in parts.values():
            for parameter in part.parameters():
                parameter.normal_(0, 0.02, generator=torch.Generator(device).manual_seed(0))
    positions = torch.arange(parts["text_encoder"].config.max_position_embeddings, device=device)
    parts["text_encoder"].embeddings.position_ids = positions.expand((1, -1))
    return replace(base, **parts)


def _dreams(model: StableDiffusion, sampling: Sampling, context: _Context, steps: int) -> None:
    prompts = ["a picture"] * sampling.batch_size
    short = replace(sampling, num_inference_steps=steps)
    dream(model, prompts, range(sampling.batch_size), short, forward_context=context)


def _seconds(work: Any, device: torch.device, count: int = 1, warm: bool = True) -> float:
    """Seconds of work, after it was done once where it is to be warm."""
    if warm:
        work()
    _wait(device)
    begin = time.perf_counter()
    for _ in range(count):
        work()
    _wait(device)
    return (time.perf_counter() - begin) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
