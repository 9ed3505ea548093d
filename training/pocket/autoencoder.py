"""The pocket's autoencoder: AutoencoderKL, 64 x 64 pixels to 4 x 16 x 16 latents."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lightning_drift.common.rng import generator
from training.pocket.run import Schedule, Stage
from training.pocket.scenes import HELD_OUT_SEED, PaintedScenes, Scenes

WIDTHS = (16, 48, 64)
HELD_OUT = 64
"""Number of scenes that a saved average is measured on."""


def new_autoencoder(widths: tuple[int, ...] = WIDTHS) -> Any:
    """An untrained autoencoder; every level but the last halves the side. 0.74 million parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def _steepness(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, down and across."""
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()


def _blandness(y: Tensor, x: Tensor) -> Tensor:
    """By how much steps between neighbours are smaller or larger than they should be, wherever they point."""
    down = (y[..., 1:, :] - y[..., :-1, :]).abs() - (x[..., 1:, :] - x[..., :-1, :]).abs()
    across = (y[..., 1:] - y[..., :-1]).abs() - (x[..., 1:] - x[..., :-1]).abs()
    return down.abs().mean() + across.abs().mean()


def _opponents(x: Tensor) -> Tensor:
    """Red minus green and blue minus their mean, (n, 2, h, w)."""
    red, green, blue = x.unbind(1)
    return torch.stack([red - green, blue - (red + green) / 2], 1)


class AutoencoderStage(Stage):
    """L1, squared and gradient errors, and a slight pull of the posterior to N(0, 1).

    Most of the world's colours lie between orange and blue, and a small encoder soon spends all its latents
    on these and on brightness: red and violet come back brown and grey. So half of every batch has its colour
    channels permuted, which makes all hues equally frequent (and lets photographs pass through as well), and
    the L1 error of the opponent colours red-green and blue-yellow, at half the resolution, has a term. The
    gradient terms, L1 at two scales, stand in for a perceptual loss: they punish softened edges, and need no
    other network. Every sixteenth batch has its levels shifted.

    Args:
        model: The AutoencoderKL.
        schedule: How long and how fast.
        scenes: The scenes to train on.
        kl: Weight of the Kullback-Leibler term, per latent number.
        edges: Weight of the gradient terms.
        tint: Weight of the colour term.
        freeze_encoder: Train the decoder alone, so that latents, and the UNet trained on them, stay valid.
        texture: Weight of a term for steps of the right size in any direction: it punishes soft texture,
            which the other terms prefer to texture that is a little out of place.
    """

    def __init__(
        self,
        model: Any,
        schedule: Schedule,
        scenes: Scenes,
        kl: float = 1e-4,
        edges: float = 0.5,
        tint: float = 2.0,
        freeze_encoder: bool = False,
        texture: float = 0.0,
    ) -> None:
        super().__init__(model, schedule, scenes, captions=False)
        self.kl, self.edges, self.tint, self.texture = kl, edges, tint, texture
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            self.model.encoder.requires_grad_(False)
            self.model.quant_conv.requires_grad_(False)

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and ``psnr`` (dB over 0..1) and ``kl`` (nats per latent number) to log."""
        step, x = batch["step"], batch["images"]
        random = generator(self.schedule.seed, "autoencoder", step)
        half = len(x) // 2
        order = torch.rand((half, 3), generator=random).argsort(1).to(x.device)
        permuted = x[:half][torch.arange(half, device=x.device)[:, None], order]
        x = torch.cat([permuted, x[half:]])
        if step % 16 == 5:
            x = x * (0.5 + 0.5 * float(torch.rand(1, generator=random))) + 0.3 * float(
                torch.rand(1, generator=random) - 0.5
            )
        posterior = self.model.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=random).to(x)
        y = self.model.decode(posterior.mean + posterior.std * noise).sample.float()
        error = y - x
        squared = error.pow(2).mean()
        gradient = _steepness(error)
        coarse = torch.nn.functional.avg_pool2d(error, 2)
        gradient = gradient + _steepness(coarse)
        tint = _opponents(coarse).abs().mean()
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        loss = error.abs().mean() + 2.0 * squared + self.edges * gradient + self.tint * tint + self.kl * kl
        if self.texture:
            loss = loss + self.texture * _blandness(y, x)
        psnr = 10 * torch.log10(4 / squared.detach())
        return loss, {"psnr": psnr, "kl": kl.detach()}

    @cached_property
    def held_out(self) -> Scenes:
        """The scenes that a saved average is measured on."""
        return PaintedScenes(HELD_OUT_SEED, HELD_OUT)

    def save(self, folder: Path) -> None:
        """Write the average with the scaling factor that its latents of held-out scenes ask for."""
        quality = measure_autoencoder(self.ema, self.held_out)
        if not self.freeze_encoder:
            self.ema.register_to_config(scaling_factor=round(1 / quality["latent_std"], 5))
        self.note({"held_out/psnr": quality["psnr"], "held_out/colour_error": quality["colour_error"]})
        print(
            f"step {self.global_step}  held out: {quality['psnr']:.2f} dB, latent std "
            f"{quality['latent_std']:.3f}, colour error {quality['colour_error']:.3f}",
            flush=True,
        )
        copy.deepcopy(self.ema).half().save_pretrained(folder)


@torch.no_grad()
def measure_autoencoder(vae: Any, scenes: Scenes) -> dict[str, float]:
    """Quality on scenes that it was not trained on.

    Args:
        vae: An AutoencoderKL in evaluation mode, fp32.
        scenes: The scenes.

    Returns:
        ``psnr``: mean over images, dB; ``latent_std``: of the posterior means, unscaled, over all latents;
        ``colour_error``: mean absolute error of the opponent colours where pixels are strongly coloured, as a
        fraction of their own mean size (1 when all colour is lost).
    """
    device = next(vae.parameters()).device
    psnr, latents, lost, whole = [], [], 0.0, 0.0
    for first in range(0, scenes.count, 32):
        x = scenes.images(list(range(first, min(first + 32, scenes.count)))).to(device)
        z = vae.encode(x).latent_dist.mean
        y = vae.decode(z).sample.clamp(-1, 1)
        psnr.append(10 * torch.log10(4 / (y - x).pow(2).mean((1, 2, 3))))
        latents.append(z)
        strong = (x.amax(1) - x.amin(1) > 0.8)[:, None]
        lost += float(((_opponents(y) - _opponents(x)).abs() * strong).sum())
        whole += float((_opponents(x).abs() * strong).sum())
    return {
        "psnr": float(torch.cat(psnr).mean()),
        "latent_std": float(torch.cat(latents).std()),
        "colour_error": lost / max(whole, 1e-9),
    }
