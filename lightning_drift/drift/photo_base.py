"""PhotoBase: the photos and the base model's errors on them, against which the loss on the photos is set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.drift.base import settings_of, tensors_of

FORMAT = 1


@dataclass(frozen=True)
class PhotoBase:
    """The photos as the denoiser sees them, and how well the base model predicts their noise.

    It is kept in checkpoints, apart from `DriftBase`, which other photo sets share.

    Attributes:
        settings: Everything that it follows from, in plain values by option.
        latents: Of the photos that are looked at, shape (n, c, h, w).
        input_ids: Token ids of the instance prompt, shape (1, tokens).
        errors: The base's `photo_errors`, shape (n, levels).
    """

    settings: dict[str, Any]
    latents: Tensor
    input_ids: Tensor
    errors: Tensor

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, as a checkpoint holds them; `from_state` takes them back."""
        tensors = {name: getattr(self, name) for name in ("latents", "input_ids", "errors")}
        return {"settings": self.settings, "tensors": tensors}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PhotoBase:
        """Undo `state`. Tensors are copied, because a checkpoint's lie in a mapped file.

        Raises:
            UserError: Another version wrote it, or it is damaged.
        """
        what = "the base's errors on the photos"
        settings, tensors = settings_of(state, FORMAT, what), tensors_of(state, what)
        if set(tensors) != {"latents", "input_ids", "errors"}:
            raise UserError(f"{what} are damaged: other tensors are there than should be")
        latents, input_ids, errors = tensors["latents"], tensors["input_ids"], tensors["errors"]
        shapes = latents.ndim == 4 and input_ids.ndim == 2 and errors.ndim == 2
        if not shapes or len(latents) != len(errors) or input_ids.is_floating_point():
            raise UserError(f"{what} are damaged: their tensors have other shapes")
        return cls(settings, latents, input_ids, errors)


def photo_settings(
    settings: Mapping[str, Any], input_ids: Tensor | None, photos: Sequence[Image.Image]
) -> dict[str, Any]:
    """Everything that the base's loss on the photos follows from, by option.

    Args:
        settings: What the base's pictures follow from (`DriftEvaluator.settings`).
        input_ids: Token ids of the instance prompt.
        photos: The training photos, of one size; with none, photos and prompt are left out.
    """
    shared = ("model.pipeline", "the autoencoder", "the noise schedule", "trainer.precision", "device")
    own = {"format": FORMAT, **{name: settings[name] for name in shared}}
    if photos and input_ids is not None:
        own["model.instance_prompt"] = input_ids.flatten().tolist()
        own["data.instance_dir"] = photos_hash(photos)
    return own


def photos_hash(photos: Sequence[Image.Image]) -> str:
    """32 hexadecimal digits that follow from photos' sizes and pixels, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for photo in photos:
        digest.update(f"{photo.size}".encode() + photo.convert("RGB").tobytes())
    return digest.hexdigest()
