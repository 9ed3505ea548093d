"""The first stage of the pocket's SUPIR: an autoencoder of prints, and an encoder for degraded ones."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.rng import generator
from lightning_drift.supir.network.autoencoder import SCALING
from training.pocket.autoencoder import AutoencoderStage
from training.pocket.run import Schedule, Stage, plain_attention
from training.pocket.scenes import HELD_OUT_SEED, PaintedScenes, Scenes
from training.pocket_supir.degradation import degrade

HELD_OUT = 16
"""Number of held-out prints to measure on."""


def crops(images: Tensor, side: int, random: torch.Generator) -> Tensor:
    """One random square of each picture (n, c, h, w)."""
    if side >= images.shape[-1]:
        return images
    places = torch.randint(0, images.shape[-1] - side + 1, (len(images), 2), generator=random).tolist()
    return torch.stack(
        [image[:, y : y + side, x : x + side] for image, (y, x) in zip(images, places, strict=True)]
    )


class PrintAutoencoderStage(AutoencoderStage):
    """The pocket's autoencoder training on squares cut from prints; the networks are convolutional.

    Args:
        model: The AutoencoderKL.
        schedule: How long and how fast.
        scenes: Scenes at print size.
        side: Side of the squares in pixels, a multiple of 8.
        freeze_encoder: Train the decoder alone, so that latents, and what is trained on them, stay valid.
    """

    def __init__(
        self,
        model: Any,
        schedule: Schedule,
        scenes: Scenes,
        side: int = 128,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__(
            model, schedule, scenes, freeze_encoder=freeze_encoder, texture=0.5 if freeze_encoder else 0.0
        )
        plain_attention(model)
        self.side = side

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one square of each scene."""
        random = generator(self.schedule.seed, "square", batch["step"])
        return super().loss(batch | {"images": crops(batch["images"], self.side, random)})

    @cached_property
    def held_out(self) -> Scenes:
        """The prints that a saved average is measured on."""
        return PaintedScenes(HELD_OUT_SEED, HELD_OUT, self.scenes.size)


class DenoiseEncoderStage(Stage):
    """A second encoder learns to find in degraded prints the latents that the first finds in clean ones.

    Args:
        encoder: The denoise encoder, begun as a copy of the autoencoder's.
        vae: The frozen autoencoder.
        codec: The pocket's own autoencoder, one of the degradations.
        schedule: How long and how fast.
        scenes: Scenes at print size.
        side: Side of the squares in pixels, a multiple of 16.
    """

    def __init__(
        self, encoder: Any, vae: Any, codec: Any, schedule: Schedule, scenes: Scenes, side: int = 128
    ) -> None:
        super().__init__(encoder, schedule, scenes, captions=False)
        self.frozen = {  # a dict: not in the checkpoint
            "vae": vae.eval().requires_grad_(False),
            "codec": codec.eval().requires_grad_(False),
        }
        plain_attention(vae)
        plain_attention(self.model)
        self.side = side

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; ``mse`` is that of scaled latents, whose variance is about 1."""
        random = generator(self.schedule.seed, "denoise encoder", batch["step"])
        clean = crops(batch["images"], self.side, random)
        degraded = degrade(clean.cpu(), random, self.frozen["codec"]).to(clean)
        vae = self.frozen["vae"].to(self.device)
        with torch.no_grad():
            target = vae.encode(clean).latent_dist.mean.float()
        latents = vae.quant_conv(self.model(degraded)).float().chunk(2, 1)[0]
        error = SCALING * (latents - target)
        squared = error.pow(2).mean()
        return squared + 0.5 * error.abs().mean(), {"mse": squared.detach()}

    @cached_property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """Held-out prints (n, 3, side, side) in -1..1, and the same degraded."""
        clean = PaintedScenes(HELD_OUT_SEED, HELD_OUT, self.scenes.size).images(list(range(HELD_OUT)))
        return clean, degrade(clean, generator(self.schedule.seed, "held out"), self.frozen["codec"])

    def save(self, folder: Path) -> None:
        """Write the average."""
        clean, degraded = self.held_out
        vae = self.frozen["vae"]
        with torch.no_grad():
            latents = vae.quant_conv(self.ema.cpu()(degraded)).chunk(2, 1)[0]
            target = vae.cpu().encode(clean).latent_dist.mean
            pictures = vae.decode(latents).sample.clamp(-1, 1)
        self.ema.to(self.device)
        mse = float((SCALING * (latents - target)).pow(2).mean())
        psnr = float((10 * torch.log10(4 / (pictures - clean).pow(2).mean((1, 2, 3)))).mean())
        bicubic = float((10 * torch.log10(4 / (degraded - clean).pow(2).mean((1, 2, 3)))).mean())
        self.note({"held_out/mse": mse, "held_out/psnr": psnr})
        print(
            f"step {self.global_step}  held out: latents {mse:.4f}, decoded {psnr:.2f} dB, bicubic "
            f"{bicubic:.2f} dB",
            flush=True,
        )
        write_state(self.ema, folder)


def write_state(module: Any, folder: Path) -> None:
    """Write a module's weights as ``folder/model.safetensors``, fp16, where no library has a layout."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as file:
        file.write(save(state))
