"""PhotoBase: the photos and what the base model predicts of them, against which a fit is set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.drift.base import settings_of, tensors_of
from lightning_drift.drift.measures.departure import SEEDS

FORMAT = 1

_ALWAYS = {"latents", "input_ids", "errors"}
_HELD_OUT = {"held_out", "held_out_errors"}


@dataclass(frozen=True)
class PhotoBase:
    """The photos as the denoiser sees them, and how well the base model predicts their noise.

    It is kept in checkpoints, apart from `DriftBase`, which other photo sets share.

    Attributes:
        settings: Everything that it follows from, in plain values by option.
        latents: Of the photos that are looked at, shape (n, c, h, w).
        input_ids: Token ids of the instance prompt, shape (1, tokens).
        errors: The base's `photo_errors`, shape (n, levels).
        held_out: Latents of the held-out photos that are looked at, shape (m, c, h, w); None without any.
        held_out_errors: The base's errors on them, shape (m, levels).
        predictions: The base's predictions of the photos of a loss curve, shape (levels, c, h, w); None in
            what an earlier version took.
        first_steps: The base's `first_steps`, shape (seeds,); likewise.
    """

    settings: dict[str, Any]
    latents: Tensor
    input_ids: Tensor
    errors: Tensor
    held_out: Tensor | None = None
    held_out_errors: Tensor | None = None
    predictions: Tensor | None = None
    first_steps: Tensor | None = None

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, as a checkpoint holds them; `from_state` takes them back."""
        names = [field.name for field in fields(self) if field.name != "settings"]
        tensors = {name: getattr(self, name) for name in names}
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return {"settings": self.settings, "tensors": kept}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PhotoBase:
        """Undo `state`. Tensors are copied, because a checkpoint's lie in a mapped file.

        Raises:
            UserError: Another version wrote it, or it is damaged.
        """
        what = "the base's errors on the photos"
        settings, tensors = settings_of(state, FORMAT, what), tensors_of(state, what)
        names = {field.name for field in fields(cls)} - {"settings"}
        if not _ALWAYS <= set(tensors) <= names or len(_HELD_OUT & set(tensors)) == 1:
            raise UserError(f"{what} are damaged: other tensors are there than should be")
        base = cls(settings, **tensors)
        latents, errors, ids = base.latents, base.errors, base.input_ids
        fits = ids.ndim == 2 and not ids.is_floating_point() and _fit(latents, errors)
        if base.held_out is not None and base.held_out_errors is not None:
            fits = fits and _fit(base.held_out, base.held_out_errors)
            fits = fits and base.held_out.shape[1:] == latents.shape[1:]
            fits = fits and base.held_out_errors.shape[1] == errors.shape[1]
        if fits and base.predictions is not None:
            fits = base.predictions.shape == (errors.shape[1], *latents.shape[1:])
        if not fits or (base.first_steps is not None and base.first_steps.shape != (SEEDS,)):
            raise UserError(f"{what} are damaged: their tensors have other shapes")
        return base


def _fit(latents: Tensor, errors: Tensor) -> bool:
    return latents.ndim == 4 and errors.ndim == 2 and len(latents) == len(errors) > 0


def photo_settings(
    settings: Mapping[str, Any],
    input_ids: Tensor | None,
    photos: Sequence[Image.Image],
    held_out: Sequence[Image.Image] = (),
) -> dict[str, Any]:
    """Everything that the base's loss on the photos follows from, by option.

    Args:
        settings: What the base's pictures follow from (`DriftEvaluator.settings`).
        input_ids: Token ids of the instance prompt.
        photos: The training photos, of one size; with none, photos and prompt are left out.
        held_out: The photos that are never trained on.
    """
    shared = ("model.pipeline", "the autoencoder", "the noise schedule", "trainer.precision", "device")
    own = {"format": FORMAT, **{name: settings[name] for name in shared}}
    if photos and input_ids is not None:
        own["model.instance_prompt"] = input_ids.flatten().tolist()
        own["data.instance_dir"] = photos_hash(photos)
        if held_out:
            own["data.held_out"] = photos_hash(held_out)
    return own


def photos_hash(photos: Sequence[Image.Image]) -> str:
    """32 hexadecimal digits that follow from photos' sizes and pixels, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for photo in photos:
        digest.update(f"{photo.size}".encode() + photo.convert("RGB").tobytes())
    return digest.hexdigest()
