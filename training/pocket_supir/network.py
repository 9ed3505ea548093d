"""The second and third stage of the pocket's SUPIR: the base UNet, then control encoder and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_drift.supir.network.adapters import ZeroSFT
from lightning_drift.supir.network.conditioning import TextEncoders
from lightning_drift.supir.network.denoiser import Conditioning
from lightning_drift.supir.network.unet import SupirNetwork
from training.pocket.noise_prediction import NoisePredictionStage
from training.pocket.run import Schedule, plain_attention
from training.pocket.scenes import Scenes
from training.pocket_supir.autoencoder import write_state
from training.pocket_supir.text import condition


class PrintStage(NoisePredictionStage):
    """Noise prediction conditioned as SDXL is.

    Args:
        model: The network to train.
        text: The frozen text encoders.
        schedule: How long and how fast.
        scenes: Latents to train on.
    """

    def __init__(self, model: nn.Module, text: TextEncoders, schedule: Schedule, scenes: Scenes) -> None:
        super().__init__(model, schedule, scenes, stream="noise", ema_decay=0.999)
        self.frozen = {"text": text}  # a dict: not in the checkpoint

    def condition(self, texts: list[str]) -> Conditioning:
        """What the text encoders make of captions, in fp32."""
        text = self.frozen["text"].to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            return condition(text, texts)


class BaseStage(PrintStage):
    """The base: an SDXL-shaped UNet that dreams prints from captions, and knows of no other picture."""

    def __init__(self, model: Any, text: TextEncoders, schedule: Schedule, scenes: Scenes) -> None:
        super().__init__(model, text, schedule, scenes)
        plain_attention(self.model)
        plain_attention(self.ema)

    def predict(
        self, noised: Tensor, steps: Tensor, texts: list[str], degraded: Tensor, random: torch.Generator
    ) -> Tensor:
        """The noise (n, 4, h, w) that the UNet predicts."""
        cond = self.condition(texts)
        width = self.model.config["cross_attention_dim"] // 2
        sizes = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]], device=noised.device)
        added = {"text_embeds": cond.vector[:, :width], "time_ids": sizes.expand(len(noised), -1)}
        prediction: Tensor = self.model(noised, steps, cond.context, added_cond_kwargs=added).sample
        return prediction

    def save(self, folder: Path) -> None:
        """Write the average."""
        write_state(self.ema, folder)


class ControlStage(PrintStage):
    """Control encoder and adapters, the base frozen.

    The blend of the adapters is drawn anew for every step, because prints are made a little below 1: half of
    the steps train at 1, the others between 0.7 and 1.
    """

    def __init__(self, model: Any, text: TextEncoders, schedule: Schedule, scenes: Scenes) -> None:
        super().__init__(model, text, schedule, scenes)
        self.model.unet.requires_grad_(False)
        for network in (self.model, self.ema):
            plain_attention(network.unet)
            plain_attention(network.control.encoder)

    def predict(
        self, noised: Tensor, steps: Tensor, texts: list[str], degraded: Tensor, random: torch.Generator
    ) -> Tensor:
        """The noise (n, 4, h, w) that the whole network predicts."""
        cond = self.condition(texts)
        draw = torch.rand(2, generator=random).tolist()
        scale = 1.0 if draw[0] < 0.5 else 0.7 + 0.3 * draw[1]
        prediction: Tensor = self.model(noised, steps, cond.context, cond.vector, degraded, scale)
        return prediction

    def save(self, folder: Path) -> None:
        """Write the average of what was trained."""
        write_state(nn.ModuleDict({"control": self.ema.control, "project": self.ema.project_modules}), folder)


@torch.no_grad()
def calibrate(network: SupirNetwork, inputs: tuple[Tensor, ...]) -> None:
    """Let untrained adapters pass on about what the base's decoder reads without them.

    An adapter normalises the decoder's input in groups. Its scale and offset are set to the mean deviation
    and mean of each group, so that training begins near the base instead of unlearning the normalisation.

    Args:
        network: A network whose adapters add nothing yet.
        inputs: What the network takes, of some dozens of noised latents.
    """

    def set_norm(adapter: ZeroSFT, args: tuple[Any, ...]) -> None:
        _, skip, state, _ = args
        raw = skip if state is None else torch.cat([state, skip], 1)
        norm = adapter.param_free_norm
        groups = raw.float().unflatten(1, (norm.num_groups, -1)).flatten(2)
        norm.weight.copy_(groups.std(2).mean(0).repeat_interleave(raw.shape[1] // norm.num_groups))
        norm.bias.copy_(groups.mean(2).mean(0).repeat_interleave(raw.shape[1] // norm.num_groups))

    hooks = [
        adapter.register_forward_pre_hook(set_norm)
        for adapter in network.project_modules
        if isinstance(adapter, ZeroSFT)
    ]
    network(*inputs)
    for hook in hooks:
        hook.remove()
