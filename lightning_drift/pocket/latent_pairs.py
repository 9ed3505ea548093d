"""Squares of prints as latents, alone or as pairs: of the clean square and of what degradation leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_drift.pocket.degradation import degrade
from lightning_drift.pocket.scene import Scene
from lightning_drift.pocket.scene_data import Scenes
from lightning_drift.pocket.train_supir_autoencoder import crops
from lightning_drift.pocket.train_unet import LatentScenes, weights_key
from lightning_drift.rng import generator
from lightning_drift.supir.autoencoder import FirstStage


class LatentSquares(LatentScenes):
    """Scaled latents (4, h, w) of squares of prints.

    Number ``index`` is a square of scene ``index % scenes.count``; ``index // scenes.count`` tells apart its
    squares.

    Args:
        scenes: Scenes at print size.
        vae: The frozen autoencoder, scaled.
        variants: Squares of a scene.
        side: Side of the squares in pixels, a multiple of 16; that of the prints takes them whole.
    """

    def __init__(self, scenes: Scenes, vae: Any, variants: int, side: int) -> None:
        super().__init__(scenes, vae)
        self.count, self.side = scenes.count * variants, min(side, scenes.size)

    def scene(self, index: int) -> Scene:
        """The description of the scene of square ``index``."""
        return self.scenes.scene(index % self.scenes.count)

    def square(self, index: int) -> tuple[Tensor, torch.Generator]:
        """Square ``index`` (1, 3, side, side), and a generator for what happens to it."""
        random = generator(self.seed, "square", index)
        return crops(self.scenes.images([index % self.scenes.count]), self.side, random), random

    def together(self, part: list[int]) -> Tensor:
        """Scaled latents of some squares at a time."""
        images = torch.cat([self.square(index)[0] for index in part])
        latents: Tensor = self.vae.encode(images).latent_dist.mean.float() * self.vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def encode(self, indices: list[int]) -> Tensor:
        """Scaled latents (n, 4, h, w)."""
        with torch.autocast("cpu", torch.bfloat16):
            parts = [indices[first : first + 16] for first in range(0, len(indices), 16)]
            return torch.cat([self.together(part) for part in parts]).float()

    def _path(self, block: int) -> Path:
        assert self.cache is not None
        return self.cache / f"squares{self.key}-{self.side}px-world{self.seed}-{block:05d}.npy"


class LatentPairs(LatentSquares):
    """Pairs (8, h, w) of scaled latents: of the clean square, and of the degraded one.

    Args:
        scenes: Scenes at print size.
        stage: The finished first stage.
        codec: The pocket's own autoencoder, one of the degradations.
        variants: Squares of a scene, each with its own degradation.
        side: Side of the squares in pixels, a multiple of 16; that of the prints takes them whole.
    """

    def __init__(self, scenes: Scenes, stage: FirstStage, codec: Any, variants: int, side: int) -> None:
        super().__init__(scenes, stage.vae, variants, side)
        self.stage = stage.eval().requires_grad_(False)
        self.codec = codec.eval().requires_grad_(False)
        self.key += weights_key(stage.denoise_encoder.state_dict())

    def together(self, part: list[int]) -> Tensor:
        """Pairs of latents of some squares at a time."""
        squares = [self.square(index) for index in part]
        clean = torch.cat([image for image, _ in squares])
        degraded = torch.cat([degrade(image, random, self.codec) for image, random in squares])
        return torch.cat([self.stage.encode(clean), self.stage.encode_degraded(degraded)], 1)
