"""What is kept of pictures: small enough to stay in a checkpoint, enough for every measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.colour import srgb_to_lab
from lightning_drift.drift.measures.composition import SIDE as LAYOUT_SIDE
from lightning_drift.drift.measures.composition import layout
from lightning_drift.drift.measures.copying import SIDE as THUMBNAIL_SIDE
from lightning_drift.drift.measures.copying import thumbnail
from lightning_drift.drift.measures.frozen_clip import FrozenClip, FrozenEye


@dataclass
class Features:
    """Features of n pictures, float32 on the CPU; 4 KB per picture, and its embeddings.

    Attributes:
        layout: Mean L* in 8x8 fields, shape (n, 8, 8), 0..100.
        lab: Mean L*a*b*, shape (n, 3).
        thumbnail: Mean sRGB in 16x16 fields, shape (n, 3, 16, 16), 0..1.
        clip: Unit CLIP embeddings, shape (n, d); None where there is no CLIP.
        image: Unit embeddings of a network of pictures alone, shape (n, e); None where there is none.
    """

    layout: Tensor
    lab: Tensor
    thumbnail: Tensor
    clip: Tensor | None = None
    image: Tensor | None = None

    @property
    def seen(self) -> Tensor | None:
        """The embeddings by which pictures are compared with pictures: those made for it, or else CLIP's."""
        return self.clip if self.image is None else self.image

    @classmethod
    def of(
        cls, images: Sequence[Image.Image], clip: FrozenClip | None = None, eye: FrozenEye | None = None
    ) -> Features:
        """The features of pictures of any size.

        Args:
            images: One picture or more, in any mode that Pillow turns into RGB.
            clip: What embeds them; None for the features that need no CLIP.
            eye: What embeds them to be compared with one another; None for the CLIP.
        """
        if not images:
            raise ValueError("no pictures")
        features: dict[str, list[Tensor]] = {"layout": [], "lab": [], "thumbnail": []}
        for image in images:
            pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)
            lab = srgb_to_lab(pixels)
            features["layout"].append(layout(lab[None, ..., 0]))
            features["lab"].append(lab.mean((0, 1))[None])
            features["thumbnail"].append(thumbnail(pixels.movedim(-1, 0)[None]))
        embedded = clip.embed_images(images) if clip else None
        compared = eye.embed_images(images) if eye else None
        return cls(
            **{name: torch.cat(parts) for name, parts in features.items()}, clip=embedded, image=compared
        )

    def __len__(self) -> int:
        return len(self.lab)

    def __getitem__(self, index: Sequence[int] | Tensor) -> Features:
        """The features of some of the pictures."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        return Features(**{name: tensor[chosen] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The features by name, as a checkpoint may hold them; `from_tensors` takes them back."""
        named = {
            "layout": self.layout,
            "lab": self.lab,
            "thumbnail": self.thumbnail,
        }
        embedded = {"clip": self.clip, "image": self.image}
        return named | {name: tensor for name, tensor in embedded.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Features:
        """Undo `tensors`.

        Raises:
            UserError: A tensor is missing or has another shape.
        """
        shapes = {
            "layout": (LAYOUT_SIDE, LAYOUT_SIDE),
            "lab": (3,),
            "thumbnail": (3, THUMBNAIL_SIDE, THUMBNAIL_SIDE),
        }
        lengths = {len(tensor) for tensor in tensors.values() if tensor.ndim}
        fits = all(name in tensors and tuple(tensors[name].shape[1:]) == shapes[name] for name in shapes)
        embedded = [tensors[name] for name in ("clip", "image") if name in tensors]
        fits = fits and all(tensor.ndim == 2 for tensor in embedded)
        if not fits or len(lengths) != 1 or set(tensors) - {*shapes, "clip", "image"} or 0 in lengths:
            raise UserError("these are not features of pictures: their tensors have other names or shapes")
        if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in tensors.values()):
            raise UserError("these are not features of pictures: they hold NaN, infinity or whole numbers")
        return cls(**tensors)
