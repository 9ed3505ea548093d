"""The second and third stage of the pocket's SUPIR: the base UNet, then control encoder and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_drift.common.rng import generator
from lightning_drift.supir.network.adapters import ZeroSFT
from lightning_drift.supir.network.conditioning import TextEncoders
from lightning_drift.supir.network.unet import SupirNetwork
from training.pocket.run import Schedule, Stage, plain_attention
from training.pocket.scenes import Scenes
from training.pocket.unet import noise_schedule
from training.pocket_supir.autoencoder import write_state
from training.pocket_supir.text import condition


class NoiseStage(Stage):
    """Noise prediction with min-SNR weights (Hang et al. 2023, gamma 5); one caption in ten is dropped.

    Args:
        model: The network to train.
        text: The frozen text encoders.
        schedule: How long and how fast.
        scenes: Latents to train on.
        drop: Probability that a caption is replaced by the empty one, for guidance.
    """

    def __init__(
        self, model: nn.Module, text: TextEncoders, schedule: Schedule, scenes: Scenes, drop: float = 0.1
    ) -> None:
        super().__init__(model, schedule, scenes, captions=True, ema_decay=0.999)
        self.frozen = {"text": text}  # a dict: not in the checkpoint
        self.drop = drop
        self.noise = noise_schedule()
        alphas = self.noise.alphas_cumprod
        snr = alphas / (1 - alphas)
        self.weights = torch.clamp(snr, max=5.0) / snr

    def predict(
        self, noised: Tensor, steps: Tensor, context: Tensor, vector: Tensor, seen: Tensor, random: Any
    ) -> Tensor:
        """The noise that the network finds; `seen` are latents of degraded pictures, empty without."""
        raise NotImplementedError

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss, and the plain ``mse`` to log."""
        clean, seen = batch["images"][:, :4], batch["images"][:, 4:]
        random = generator(self.schedule.seed, "noise", batch["step"])
        n = len(clean)
        dropped = torch.rand(n, generator=random) < self.drop
        texts = ["" if drop else text for text, drop in zip(batch["captions"], dropped, strict=True)]
        steps = torch.randint(0, 1000, (n,), generator=random)
        noise = torch.randn(clean.shape, generator=random)
        noise = noise.to(clean)
        noised = self.noise.add_noise(clean, noise, steps.to(clean.device))
        text = self.frozen["text"].to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            cond = condition(text, texts)
        found = self.predict(noised, steps.to(self.device), cond.context, cond.vector, seen, random)
        squared = (found.float() - noise).pow(2).mean((1, 2, 3))
        loss = 2 * (squared * self.weights[steps].to(squared)).mean()
        return loss, {"mse": squared.detach().mean()}


class BaseStage(NoiseStage):
    """The base: an SDXL-shaped UNet that dreams prints from captions, and knows of no other picture."""

    def __init__(
        self, model: Any, text: TextEncoders, schedule: Schedule, scenes: Scenes, drop: float = 0.1
    ) -> None:
        super().__init__(model, text, schedule, scenes, drop)
        plain_attention(self.model)
        plain_attention(self.ema)

    def predict(
        self, noised: Tensor, steps: Tensor, context: Tensor, vector: Tensor, seen: Tensor, random: Any
    ) -> Tensor:
        """The UNet's finding."""
        width = self.model.config["cross_attention_dim"] // 2
        sizes = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]], device=noised.device)
        added = {"text_embeds": vector[:, :width], "time_ids": sizes.expand(len(noised), -1)}
        found: Tensor = self.model(noised, steps, context, added_cond_kwargs=added).sample
        return found

    def save(self, folder: Path) -> None:
        """Write the average."""
        write_state(self.ema, folder)


class ControlStage(NoiseStage):
    """Control encoder and adapters, the base frozen.

    The blend of the adapters is drawn anew for every step, for prints are made a little below 1: half of the
    steps train at 1, the others between 0.7 and 1.
    """

    def __init__(
        self, model: Any, text: TextEncoders, schedule: Schedule, scenes: Scenes, drop: float = 0.1
    ) -> None:
        super().__init__(model, text, schedule, scenes, drop)
        self.model.unet.requires_grad_(False)
        for network in (self.model, self.ema):
            plain_attention(network.unet)
            plain_attention(network.control.encoder)

    def predict(
        self, noised: Tensor, steps: Tensor, context: Tensor, vector: Tensor, seen: Tensor, random: Any
    ) -> Tensor:
        """The whole network's finding."""
        draw = torch.rand(2, generator=random).tolist()
        scale = 1.0 if draw[0] < 0.5 else 0.7 + 0.3 * draw[1]
        found: Tensor = self.model(noised, steps, context, vector, seen, scale)
        return found

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
