"""What a network does with a picture before it looks, in Pillow and NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import reason
from lightning_drift.weights.configs import MAX_SAMPLE, read_config

_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SIGLIP = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and deviation where a config names none, as transformers has them."""


@dataclass(frozen=True)
class Preprocessing:
    """What a CLIP does with a picture before it looks, as in ``preprocessor_config.json``.

    Attributes:
        edge: Length in pixels to which the shorter edge is resized, or height and width whatever the shape;
            None to leave pictures as they are.
        crop: Height and width in pixels of the centre crop; None for no crop.
        mean: Mean of each channel, for values in 0..1.
        std: Standard deviation of each channel.
        resample: Pillow's number of the resampling filter; 3 is bicubic.
        scale: What 8-bit values are multiplied with.
    """

    edge: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = 3
    scale: float = 1 / 255

    @classmethod
    def read(cls, file: Path) -> Preprocessing:
        """Read a ``preprocessor_config.json`` of this or of older versions of transformers.

        Raises:
            UserError: No such file, or it asks for anything but to resize, crop the centre and normalise.
        """
        config = read_config(file)
        try:
            preprocessing = cls._of(config)
            preprocessing(Image.new("RGB", (2, 3)))
        except Exception as error:  # any value may be of the wrong type or size
            raise UserError(
                f"{file} asks for something else than a shortest edge, a centre crop and a normalisation of "
                f"three channels ({reason(error)})"
            ) from error
        return preprocessing

    @classmethod
    def _of(cls, config: Mapping[str, Any]) -> Preprocessing:
        # SigLIP's resizes to a square and crops nothing; CLIP's and DINOv2's crop what they resized.
        square = "siglip" in str(config.get("image_processor_type", "")).lower()
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        edge = _edge(size)
        shape = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
        edges = edge if isinstance(edge, tuple) else (edge,)
        if not all(1 <= length <= MAX_SAMPLE for length in (*edges, *shape)):
            raise ValueError(f"sizes are 1 to {MAX_SAMPLE} pixels")
        normalise = config.get("do_normalize", True)
        usual = _SIGLIP if square else _CLIP
        mean = config.get("image_mean", usual[0]) if normalise else (0.0,)
        std = config.get("image_std", usual[1]) if normalise else (1.0,)
        scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
        if not all(math.isfinite(number) for number in (*mean, scale)) or not all(
            0 < part < 1e6 for part in std
        ):
            raise ValueError("mean, deviation and factor are finite numbers")
        return cls(
            edge=edge if config.get("do_resize", True) else None,
            crop=(int(shape[0]), int(shape[1])) if config.get("do_center_crop", not square) else None,
            mean=tuple(mean),
            std=tuple(std),
            resample=int(config.get("resample", 3)),
            scale=scale,
        )

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of what the network sees; None where they follow from the picture."""
        return self.crop or (self.edge if isinstance(self.edge, tuple) else None)

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixel values (3, h, w) of a picture, equal to those of transformers' Pillow processors."""
        image = image.convert("RGB")
        if isinstance(self.edge, tuple):
            image = image.resize(self.edge[::-1], Image.Resampling(self.resample))
        elif self.edge is not None:
            width, height = image.size
            long = int(self.edge * max(width, height) / min(width, height))
            target = (self.edge, long) if width <= height else (long, self.edge)
            image = image.resize(target, Image.Resampling(self.resample))
        if self.crop is not None:
            # Pillow fills with black what lies outside of a picture smaller than the crop.
            left, top = (image.width - self.crop[1]) // 2, (image.height - self.crop[0]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        pixels = (np.asarray(image, dtype=np.float64) * self.scale).astype(np.float32)
        values = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.asarray(values.transpose(2, 0, 1))


def _edge(size: Any) -> int | tuple[int, int]:
    """The shorter edge, or height and width."""
    if isinstance(size, dict) and "shortest_edge" not in size:
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"] if isinstance(size, dict) else size)
