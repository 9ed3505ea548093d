"""The finished autoencoder learns plain pictures and borders, while its latents of scenes stay."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_drift.common.rng import generator
from lightning_drift.supir.network.autoencoder import SCALING
from training.pocket.autoencoder import blandness, measure_autoencoder, steepness
from training.pocket.run import Schedule, Stage, plain_attention
from training.pocket.scenes import HELD_OUT_SEED, PaintedScenes, Scenes
from training.pocket_supir.autoencoder import HELD_OUT, crops
from training.pocket_supir.hard_scenes import HardScenes, is_plain

SIDES = (64, 128, 256)
"""Sides of the squares of a step: how much of a picture is border decides what the group norms make of it."""


def border_weights(side: int) -> Tensor:
    """Weights (side, side) of the errors of pixels: 5 on the outermost, 3 on the next, else 1."""
    ring = torch.arange(side)
    far = torch.minimum(ring, side - 1 - ring)
    depth = torch.minimum(far[:, None], far[None])
    return 1 + 4.0 * (depth == 0) + 2.0 * (depth == 1)


class MendingStage(Stage):
    """A trained autoencoder goes on, its latents of scenes held near those that the networks know.

    A picture of one colour has no variance for a group norm to divide by, so the encoder sees little but
    its borders; it has to be shown some. Every step trains on squares of another size.

    Args:
        vae: The AutoencoderKL, its latents scaled for SDXL's factor.
        schedule: How long and how fast.
        scenes: Scenes at print size, plain ones among them.
    """

    def __init__(self, vae: Any, schedule: Schedule, scenes: HardScenes) -> None:
        super().__init__(vae, schedule, scenes, captions=False)
        before = copy.deepcopy(vae).requires_grad_(False).eval()
        self.frozen = {"before": before}  # a dict: not in the checkpoint
        for model in (vae, before):
            plain_attention(model)

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; ``psnr`` of scenes and of plain pictures, ``moved`` the change of scaled latents."""
        random = generator(self.schedule.seed, "mending", batch["step"])
        side = SIDES[int(torch.randint(len(SIDES), (1,), generator=random))]
        count = max(len(batch["images"]) * SIDES[0] ** 2 // side**2, 1)  # as many pixels at any side
        picked = torch.randperm(len(batch["images"]), generator=random)[:count]
        x = crops(batch["images"][picked], side, random)
        plain = torch.tensor([is_plain(batch["indices"][k]) for k in picked], device=x.device)
        latents = self.model.encode(x).latent_dist.mean
        y = self.model.decode(latents).sample.float()
        with torch.no_grad():
            known = self.frozen["before"].to(self.device).encode(x).latent_dist.mean
        moved = ((SCALING * (latents - known).float()).pow(2).mean((1, 2, 3)) * ~plain).mean()
        error = y - x
        weights = border_weights(x.shape[-1]).to(x.device)
        gradient = steepness(error) + steepness(F.avg_pool2d(error, 2))
        loss = (error.abs() * weights).mean() + 2 * (error.pow(2) * weights).mean() + 0.5 * gradient
        loss = loss + 0.25 * blandness(y, x) + 4 * moved
        squared = error.detach().pow(2).mean((1, 2, 3))
        values = {
            "scenes": squared[~plain].mean().nan_to_num(),
            "plain": squared[plain].mean().nan_to_num(),
            "moved": moved.detach(),
        }
        return loss, values

    @cached_property
    def held_out(self) -> Scenes:
        """The prints that a saved average is measured on."""
        return PaintedScenes(HELD_OUT_SEED, HELD_OUT, self.scenes.size)

    def save(self, folder: Path) -> None:
        """Write the average."""
        quality = measure_autoencoder(self.ema, self.held_out)
        self.note({"held_out/psnr": quality["psnr"]})
        print(f"step {self.global_step}  held out: {quality['psnr']:.2f} dB", flush=True)
        copy.deepcopy(self.ema).half().save_pretrained(folder)
