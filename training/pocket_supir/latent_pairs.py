"""Squares of prints as latents, alone or as pairs: of the clean square and of what degradation leaves."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.rng import generator
from lightning_drift.supir.network.autoencoder import FirstStage
from training.pocket.scenes import BLOCK, Scenes
from training.pocket.unet import LatentScenes, weights_key
from training.pocket.world.scene import Scene
from training.pocket_supir.autoencoder import crops
from training.pocket_supir.degradation import degrade

PART = 16
"""Squares that are encoded together."""


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

    def pictures(self, indices: list[int]) -> Tensor:
        """The squares (n, 3, side, side) that latents are made of."""
        return torch.cat([self.square(index)[0] for index in indices])

    def latents(self, pictures: Tensor) -> Tensor:
        """Scaled latents (n, 4, h, w) of `pictures`, on the autoencoder's device."""
        mean: Tensor = self.vae.encode(pictures).latent_dist.mean
        return mean.float() * float(self.vae.config.scaling_factor)

    def encode(self, indices: list[int]) -> Tensor:
        """Scaled latents, channels first, float32 on the CPU."""
        parts = [indices[first : first + PART] for first in range(0, len(indices), PART)]
        return self._encode(self.pictures(part) for part in parts)

    @torch.no_grad()
    def _encode(self, parts: Iterable[Tensor]) -> Tensor:
        device = next(self.vae.parameters()).device
        latents = []
        for pictures in parts:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                latents.append(self.latents(pictures.to(device)).float().cpu())
        return torch.cat(latents)

    def prepare(self, workers: int = 0) -> None:
        """Encode every block that the cache lacks, on the GPU if there is one, before workers read them.

        Args:
            workers: Processes that cut and degrade squares meanwhile.

        Raises:
            UserError: There is no cache.
        """
        self.require_cache()
        missing = [k for k in range((self.count + BLOCK - 1) // BLOCK) if not self._path(k).is_file()]
        places = [
            range(first, first + PART) for k in missing for first in range(k * BLOCK, (k + 1) * BLOCK, PART)
        ]
        loader = DataLoader(Pictures(self, places), batch_size=None, num_workers=workers)
        pictures = iter(loader)
        self._move("cuda" if torch.cuda.is_available() else "cpu")
        for block in missing:
            latents = self._encode(islice(pictures, BLOCK // PART))
            with atomic_write(self._path(block)) as file:
                np.save(file, latents.half().numpy())
            print(f"encoded block {block + 1} of {(self.count + BLOCK - 1) // BLOCK}", flush=True)
        self._move("cpu")

    def _move(self, device: str) -> None:
        self.vae.to(device)

    def _path(self, block: int) -> Path:
        assert self.cache is not None
        name = f"squares{self.key}-{self.side}px-world{self.seed}x{self.scenes.count}-{block:05d}.npy"
        return self.cache / name


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

    def pictures(self, indices: list[int]) -> Tensor:
        """Clean and degraded squares (n, 6, side, side)."""
        squares = [self.square(index) for index in indices]
        clean = torch.cat([image for image, _ in squares])
        degraded = torch.cat([degrade(image, random, self.codec) for image, random in squares])
        return torch.cat([clean, degraded], 1)

    def latents(self, pictures: Tensor) -> Tensor:
        """Pairs of latents (n, 8, h, w), on the first stage's device."""
        clean, degraded = pictures.chunk(2, 1)
        return torch.cat([self.stage.encode(clean), self.stage.encode_degraded(degraded)], 1)

    def _move(self, device: str) -> None:
        self.stage.to(device)


class Pictures(Dataset[Tensor]):
    """The pictures of some squares at a time, for workers.

    Args:
        squares: What makes them.
        places: The numbers of the squares of each part.
    """

    def __init__(self, squares: LatentSquares, places: list[range]) -> None:
        self.squares, self.places = squares, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        return self.squares.pictures(list(self.places[index]))
