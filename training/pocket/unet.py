"""The pocket's denoiser: UNet2DConditionModel on 4 x 16 x 16 latents, reading a frozen text encoder."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from training.pocket.noise_prediction import NoisePredictionStage
from training.pocket.run import Schedule, plain_attention
from training.pocket.scenes import BLOCK, Scenes
from training.pocket.tokenizer import tokenize

WIDTHS = (64, 96, 120)


def new_unet(widths: tuple[int, ...] = WIDTHS) -> Any:
    """An untrained UNet: three levels, attention on the two lower ones; 5.2 million parameters as shipped.

    ``attention_head_dim`` is, as in Stable Diffusion 1.x configurations, the number of heads.
    """
    lower = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *(("CrossAttnDownBlock2D",) * lower)),
        up_block_types=(*(("CrossAttnUpBlock2D",) * lower), "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def weights_key(state: Mapping[str, Tensor], prefix: str = "") -> str:
    """Twelve hexadecimal digits that tell weights apart; `prefix` is hashed before them."""
    digest = hashlib.blake2b(prefix.encode(), digest_size=6)
    for value in state.values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


class LatentScenes(Scenes):
    """Scenes as scaled latents (4, 16, 16), encoded once per autoencoder and kept if a folder is given.

    Args:
        scenes: The scenes.
        vae: The frozen autoencoder, fp32.
    """

    def __init__(self, scenes: Scenes, vae: Any) -> None:
        super().__init__(scenes.seed, scenes.count, scenes.size, scenes.cache)
        self.scenes = scenes
        self.vae = vae.eval().requires_grad_(False)
        encoding = {
            name: value
            for name, value in vae.state_dict().items()
            if not name.startswith(("decoder.", "post_quant_conv."))
        }
        self.key = weights_key(encoding, str(vae.config.scaling_factor))

    @torch.no_grad()
    def encode(self, indices: list[int]) -> Tensor:
        """Scaled posterior means (n, 4, 16, 16) of scenes."""
        images = self.scenes.images(indices).to(next(self.vae.parameters()).device)
        with torch.autocast(images.device.type, torch.bfloat16):
            mean = self.vae.encode(images).latent_dist.mean
        scaled: Tensor = mean.float().cpu() * self.vae.config.scaling_factor
        return scaled

    def images(self, indices: list[int]) -> Tensor:
        """Latents (n, 4, 16, 16)."""
        if self.cache is None:
            return self.encode(indices)
        return torch.from_numpy(np.stack([self.image(index) for index in indices])).float()

    def prepare(self) -> None:
        """Encode every block that the cache lacks, on the GPU if there is one, before workers read them.

        Raises:
            UserError: There is no cache.
        """
        self.require_cache()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.vae.to(device)
        for block in range((self.count + BLOCK - 1) // BLOCK):
            self._load(block)
        self.vae.to("cpu")

    def require_cache(self) -> None:
        """Refuse to go on without a folder for latents.

        Raises:
            UserError: There is none.
        """
        if self.cache is None:
            raise UserError("workers read latents from a folder: name one", "--cache")

    def _path(self, block: int) -> Path:
        assert self.cache is not None
        return self.cache / f"latents{self.key}-world{self.seed}-{block:05d}.npy"

    def _load(self, block: int) -> NDArray[Any]:
        path = self._path(block)
        if not path.is_file():
            first = block * BLOCK
            parts = [self.encode(list(range(k, k + 64))) for k in range(first, first + BLOCK, 64)]
            with atomic_write(path) as file:
                np.save(file, torch.cat(parts).half().numpy())
        return np.asarray(np.load(path, mmap_mode="r"))


class UNetStage(NoisePredictionStage):
    """Noise prediction from captions.

    Args:
        model: The UNet.
        text_encoder: The frozen CLIPTextModel.
        tokenizer: Its tokenizer.
        schedule: How long and how fast.
        scenes: Latents to train on.
    """

    def __init__(
        self, model: Any, text_encoder: Any, tokenizer: Any, schedule: Schedule, scenes: LatentScenes
    ) -> None:
        super().__init__(model, schedule, scenes, stream="unet", ema_decay=0.9995)
        plain_attention(model)
        # A dict: not in the checkpoint.
        self.frozen = {"text_encoder": text_encoder.eval().requires_grad_(False)}
        self.tokenizer = tokenizer

    def predict(
        self, noised: Tensor, steps: Tensor, texts: list[str], degraded: Tensor, random: torch.Generator
    ) -> Tensor:
        """The noise (n, 4, 16, 16) that the UNet predicts."""
        text_encoder = self.frozen["text_encoder"].to(self.device)
        with torch.no_grad():
            hidden = text_encoder(tokenize(self.tokenizer, texts).to(self.device)).last_hidden_state
        prediction: Tensor = self.model(noised, steps, hidden).sample
        return prediction

    def save(self, folder: Path) -> None:
        """Write the average."""
        copy.deepcopy(self.ema).half().save_pretrained(folder)
