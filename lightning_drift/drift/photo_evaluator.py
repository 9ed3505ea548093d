"""PhotoEvaluator: asks the denoiser about the photos, those it is trained on and those it never sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from lightning_drift.common.halving import Batch
from lightning_drift.common.modules import eval_mode, placed
from lightning_drift.drift.measures.departure import departure, first_steps, prompt_force
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.measures.loss_curve import loss_curves, of_curve, on_curve
from lightning_drift.drift.measures.photo_loss import photo_loss, photo_predictions, shown
from lightning_drift.drift.photo_base import PhotoBase
from lightning_drift.stable_diffusion.autoencoder import encode_pictures

Context = Callable[[], AbstractContextManager[Any]]

MOST_HELD_OUT = 4
"""Held-out photos that are looked at."""


@dataclass(frozen=True)
class PhotoReading:
    """What was asked about the photos at a milestone.

    Attributes:
        loss: The loss on the photos relative to the base's.
        held_out: The same on the held-out photos; None without any.
        explaining: Points of the loss curves and what else explains, by tag.
    """

    loss: Interval
    held_out: Interval | None
    explaining: dict[str, float]


class PhotoEvaluator:
    """Asks a module's denoiser about the photos. The caller's context is that of the networks' calls."""

    def __init__(self) -> None:
        self._levels = Batch(things="noise levels of a photo")
        self._seeds = Batch(things="starting noises")

    def base(
        self,
        settings: dict[str, Any],
        photos: Sequence[Image.Image],
        held_out: Sequence[Image.Image],
        module: Any,
        context: Context,
    ) -> PhotoBase:
        """The photos' latents and what the base predicts of them.

        Args:
            settings: See `photo_settings`.
            photos: The training photos, of one size.
            held_out: The photos that are never trained on, of that size.
            module: The untrained module.
            context: Makes the context of the networks' calls.
        """
        latents = encode(module, [photos[index] for index in shown(len(photos))])
        input_ids = module.input_ids.cpu()
        errors, predicted = self._asked(latents, input_ids, module, context)
        known = PhotoBase(settings, latents, input_ids, errors)
        others = encode(module, held_out[:MOST_HELD_OUT]) if held_out else None
        others_errors = None if others is None else self._asked(others, input_ids, module, context)[0]
        return PhotoBase(
            settings,
            latents,
            input_ids,
            errors,
            others,
            others_errors,
            of_curve(predicted),
            self._first_steps(known, module, context),
        )

    def of_base(self, base: PhotoBase) -> PhotoReading:
        """What `milestone` gives for the base itself, without asking it again."""
        return self._reading(base, base.errors, base.held_out_errors, base.predictions, base.first_steps)

    def milestone(self, base: PhotoBase, module: Any, context: Context) -> PhotoReading:
        """Everything that is asked about the photos, in at most 64 UNet forwards."""
        errors, predicted = self._asked(base.latents, base.input_ids, module, context)
        others = None
        if base.held_out is not None:
            others = self._asked(base.held_out, base.input_ids, module, context)[0]
        force = None if base.first_steps is None else self._first_steps(base, module, context)
        return self._reading(base, errors, others, of_curve(predicted), force)

    def loss(self, base: PhotoBase, module: Any, context: Context) -> Interval:
        """The loss on the photos relative to the base's, and nothing else."""
        return photo_loss(base.errors, self._asked(base.latents, base.input_ids, module, context)[0])

    def between(self, base: PhotoBase, module: Any, context: Context, trained: bool) -> dict[str, float]:
        """A point of the loss curves, by tag, in four UNet forwards for each.

        Args:
            base: The base.
            module: The module that is trained.
            context: Makes the context of the networks' calls.
            trained: Whether trained photos are asked about too; held-out ones are.
        """
        now, before, moved = {}, {}, {}
        if trained:
            own = on_curve(len(base.latents))
            errors, predicted = self._asked(base.latents, base.input_ids, module, context, own)
            now["trained"], before["trained"] = errors[0], of_curve(base.errors)
            moved = _departure(base, predicted[0])
        if base.held_out is not None and base.held_out_errors is not None:
            own = on_curve(len(base.held_out))
            now["held_out"] = self._asked(base.held_out, base.input_ids, module, context, own)[0][0]
            before["held_out"] = of_curve(base.held_out_errors)
        return loss_curves(before, now) | moved

    def _reading(
        self,
        base: PhotoBase,
        errors: Tensor,
        others: Tensor | None,
        predicted: Tensor | None,
        force: Tensor | None,
    ) -> PhotoReading:
        now, before = {"trained": of_curve(errors)}, {"trained": of_curve(base.errors)}
        held_out = None
        if others is not None and base.held_out_errors is not None:
            held_out = photo_loss(base.held_out_errors, others)
            now["held_out"], before["held_out"] = of_curve(others), of_curve(base.held_out_errors)
        explaining = loss_curves(before, now)
        if predicted is not None:
            explaining |= _departure(base, predicted)
        if force is not None and base.first_steps is not None:
            explaining["prompt_force"] = prompt_force(base.first_steps, force)
        return PhotoReading(photo_loss(base.errors, errors), held_out, explaining)

    def _asked(
        self, latents: Tensor, ids: Tensor, module: Any, context: Context, numbers: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with eval_mode(module.unet, module.text_encoder):
            model, scheduler = module.stable_diffusion, module.scheduler
            return photo_predictions(model, scheduler, latents, ids, context, self._levels, numbers)

    def _first_steps(self, base: PhotoBase, module: Any, context: Context) -> Tensor:
        with eval_mode(module.unet, module.text_encoder):
            model, shape = module.stable_diffusion, base.latents.shape[1:]
            return first_steps(model, module.scheduler, base.input_ids, shape, context, self._seeds)


def encode(module: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """Latents of pictures; the autoencoder is on the module's device for that long only."""
    vae = module.stable_diffusion.vae
    with placed(vae, module.device), eval_mode(vae):
        return encode_pictures(module.stable_diffusion, pictures)


def _departure(base: PhotoBase, predicted: Tensor) -> dict[str, float]:
    return {} if base.predictions is None else {"departure": departure(base.predictions, predicted)}
