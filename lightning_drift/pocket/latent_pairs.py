"""Prints as pairs of latents: of the clean print, and of what is left of it in a small, degraded picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_drift.pocket.degradation import degrade
from lightning_drift.pocket.scene import Scene
from lightning_drift.pocket.scene_data import Scenes
from lightning_drift.pocket.train_unet import LatentScenes, weights_key
from lightning_drift.rng import generator
from lightning_drift.supir.autoencoder import FirstStage


class LatentPairs(LatentScenes):
    """Pairs (8, h, w) of scaled latents, clean and degraded; every scene comes with several degradations.

    Number ``index`` is scene ``index % scenes.count`` under degradation ``index // scenes.count``.

    Args:
        scenes: Scenes at print size.
        stage: The finished first stage.
        codec: The pocket's own autoencoder, one of the degradations.
        variants: Degradations of a scene.
    """

    def __init__(self, scenes: Scenes, stage: FirstStage, codec: Any, variants: int = 2) -> None:
        super().__init__(scenes, stage.vae)
        self.count = scenes.count * variants
        self.stage = stage.eval().requires_grad_(False)
        self.codec = codec.eval().requires_grad_(False)
        self.key += weights_key(stage.denoise_encoder.state_dict())

    def scene(self, index: int) -> Scene:
        """The description of the scene of pair ``index``."""
        return self.scenes.scene(index % self.scenes.count)

    @torch.no_grad()
    def encode(self, indices: list[int]) -> Tensor:
        """Scaled latents (n, 8, h, w)."""
        made = []
        for first in range(0, len(indices), 16):
            part = indices[first : first + 16]
            images = self.scenes.images([index % self.scenes.count for index in part])
            seen = torch.cat(
                [
                    degrade(images[k : k + 1], generator(self.seed, "degraded", index), self.codec)
                    for k, index in enumerate(part)
                ]
            )
            with torch.autocast("cpu", torch.bfloat16):
                pair = torch.cat([self.stage.encode(images), self.stage.encode_degraded(seen)], 1)
            made.append(pair.float())
        return torch.cat(made)

    def _path(self, block: int) -> Path:
        assert self.cache is not None
        return self.cache / f"pairs{self.key}-world{self.seed}-{block:05d}.npy"
