"""The networks that measure: how each kind of transformers is built, and what of it is a vector."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
)

from lightning_drift.weights.files import Weights

# Names that published DINOv2 files have, and those of transformers from 5.2x on.
_DINO_NAMES = (
    (r"attention\.attention\.(query|key|value)\.", lambda match: f"attention.{match[1][0]}_proj."),
    (r"attention\.output\.dense\.", "attention.o_proj."),
)
_STRAY = {"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"}


@dataclass(frozen=True)
class Network:
    """A kind of network.

    Attributes:
        called: What messages call it.
        config: Its config's class.
        model: Its class.
        picture: Gives the vectors (n, d) of pixel values (n, 3, h, w).
        prompt: Gives the vectors (n, d) of token ids (n, length); None for a network without words.
    """

    called: str
    config: Callable[..., Any]
    model: Any
    picture: Callable[[Any, Tensor], Tensor]
    prompt: Callable[[Any, Tensor], Tensor] | None = None

    def empty(self, config: Mapping[str, Any]) -> Any:
        """The network of a config on the meta device, in eval mode and float32."""
        with torch.device("meta"):
            return self.model._from_config(
                self.config(**config), attn_implementation="sdpa", dtype=torch.float32
            ).eval()

    def shape(self, model: Any, shape: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width of the pictures that a network is made for.

        Args:
            model: The network.
            shape: What its preprocessing gives; DINOv2 takes any multiple of its patches.
        """
        config = getattr(model.config, "vision_config", model.config)
        side, patch = config.image_size, config.patch_size
        free = self.prompt is None and shape is not None and not any(length % patch for length in shape)
        return shape if free and shape is not None else (side, side)

    def weights(self, model: Any, weights: Weights) -> Weights:
        """Weights under a model's own names, without the buffers that old files hold."""
        own = model.state_dict()

        def renamed(name: str) -> str:
            new = name
            for pattern, put in _DINO_NAMES:
                new = re.sub(pattern, put, new)
            return new if name not in own and new in own else name

        return weights.renamed({renamed(name): name for name in weights.shapes if name not in _STRAY})


def restore_positions(model: Any) -> None:
    """Give the towers of a network that was built without memory the buffers that no file holds."""
    for tower in (getattr(model, name, None) for name in ("text_model", "vision_model")):
        if tower is not None:
            count = tower.embeddings.position_embedding.num_embeddings
            tower.embeddings.position_ids = torch.arange(count).expand((1, -1))


def _clip_picture(model: Any, pixels: Tensor) -> Tensor:
    vectors: Tensor = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    return vectors


def _clip_prompt(model: Any, ids: Tensor) -> Tensor:
    vectors: Tensor = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return vectors


def _siglip_picture(model: Any, pixels: Tensor) -> Tensor:
    vectors: Tensor = model.vision_model(pixel_values=pixels).pooler_output
    return vectors


def _siglip_prompt(model: Any, ids: Tensor) -> Tensor:
    vectors: Tensor = model.text_model(input_ids=ids).pooler_output  # of the last token, a padding mostly
    return vectors


def _dino_picture(model: Any, pixels: Tensor) -> Tensor:
    vectors: Tensor = model(pixel_values=pixels).pooler_output  # of the class token
    return vectors


CLIPS = {
    "clip": Network("CLIP", CLIPConfig, CLIPModel, _clip_picture, _clip_prompt),
    "siglip": Network("SigLIP", SiglipConfig, SiglipModel, _siglip_picture, _siglip_prompt),
}
"""Networks of pictures and words, by ``model_type``. OpenCLIP's weights in transformers' layout are ``clip``,
SigLIP 2's of a fixed size ``siglip``."""

EYES = {
    "dinov2": Network("DINOv2", Dinov2Config, Dinov2Model, _dino_picture),
    "dinov2_with_registers": Network(
        "DINOv2", Dinov2WithRegistersConfig, Dinov2WithRegistersModel, _dino_picture
    ),
}
"""Networks of pictures alone, likewise."""
