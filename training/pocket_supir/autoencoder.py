"""The first stage of the pocket's SUPIR: an autoencoder of prints, and an encoder for degraded ones."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.rng import generator
from lightning_drift.supir.network.autoencoder import SCALING
from training.pocket.autoencoder import AutoencoderStage, measure_autoencoder
from training.pocket.run import Schedule, Stage, plain_attention
from training.pocket.scenes import HELD_OUT_SEED, Scenes
from training.pocket_supir.degradation import degrade
from training.pocket_supir.models import PRINT

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
    def unseen(self) -> Scenes:
        """Held-out prints, painted once."""
        return Painted(HELD_OUT_SEED, HELD_OUT, self.scenes.size)

    def save(self, folder: Path) -> None:
        """Write the average with the scaling factor that its latents of held-out prints ask for."""
        quality = measure_autoencoder(self.ema, HELD_OUT, self.unseen)
        if not self.freeze_encoder:
            self.ema.register_to_config(scaling_factor=round(1 / quality["latent_std"], 5))
        self.note({"held_out/psnr": quality["psnr"], "held_out/colour_error": quality["colour_error"]})
        print(
            f"step {self.global_step}  held out: {quality['psnr']:.2f} dB, latent std "
            f"{quality['latent_std']:.3f}, colour error {quality['colour_error']:.3f}",
            flush=True,
        )
        copy.deepcopy(self.ema).half().save_pretrained(folder)


class Painted(Scenes):
    """Scenes kept in memory once painted."""

    def __init__(self, seed: int, count: int, size: int = PRINT) -> None:
        super().__init__(seed, count, size)
        self._pictures: dict[int, Any] = {}

    def image(self, index: int) -> Any:
        """The picture of scene ``index``, (size, size, 3)."""
        if index not in self._pictures:
            self._pictures[index] = super().image(index)
        return self._pictures[index]


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
        seen = degrade(clean.cpu(), random, self.frozen["codec"]).to(clean)
        vae = self.frozen["vae"].to(self.device)
        with torch.no_grad():
            target = vae.encode(clean).latent_dist.mean.float()
        found = vae.quant_conv(self.model(seen)).float().chunk(2, 1)[0]
        error = SCALING * (found - target)
        squared = error.pow(2).mean()
        return squared + 0.5 * error.abs().mean(), {"mse": squared.detach()}

    @cached_property
    def unseen(self) -> tuple[Tensor, Tensor]:
        """Held-out prints and what becomes of them."""
        clean = Painted(HELD_OUT_SEED, HELD_OUT, self.scenes.size).images(list(range(HELD_OUT)))
        return clean, degrade(clean, generator(self.schedule.seed, "held out"), self.frozen["codec"])

    def save(self, folder: Path) -> None:
        """Write the average."""
        clean, seen = self.unseen
        vae = self.frozen["vae"]
        with torch.no_grad():
            found = vae.quant_conv(self.ema.cpu()(seen)).chunk(2, 1)[0]
            target = vae.cpu().encode(clean).latent_dist.mean
            pictures = vae.decode(found).sample.clamp(-1, 1)
        self.ema.to(self.device)
        mse = float((SCALING * (found - target)).pow(2).mean())
        psnr = float((10 * torch.log10(4 / (pictures - clean).pow(2).mean((1, 2, 3)))).mean())
        plain = float((10 * torch.log10(4 / (seen - clean).pow(2).mean((1, 2, 3)))).mean())
        self.note({"held_out/mse": mse, "held_out/psnr": psnr})
        print(
            f"step {self.global_step}  held out: latents {mse:.4f}, decoded {psnr:.2f} dB, bicubic "
            f"{plain:.2f} dB",
            flush=True,
        )
        write_state(self.ema, folder)


def write_state(module: Any, folder: Path) -> None:
    """Write a module's weights as ``folder/model.safetensors``, fp16, where no library has a layout."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as file:
        file.write(save(state))
