"""How the pocket's denoisers train: noise of Stable Diffusion v1.5, min-SNR weights, captions dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from lightning_drift.common.rng import generator
from lightning_drift.stable_diffusion.sd15 import sd15_config
from training.pocket.run import Schedule, Stage
from training.pocket.scenes import Scenes

_SD15 = sd15_config("scheduler")
NOISE: Mapping[str, Any] = {
    name: _SD15[name]
    for name in (
        "num_train_timesteps",
        "beta_schedule",
        "beta_start",
        "beta_end",
        "prediction_type",
        "clip_sample",
    )
}
"""Stable Diffusion v1.5's betas and what is predicted, for any scheduler of diffusers."""


def noise_schedule() -> Any:
    """The noise of the training: 1,000 steps."""
    return DDPMScheduler(**NOISE)


def ddim_scheduler() -> Any:
    """The sampler of the recipe: DDIM with the same betas."""
    return DDIMScheduler(**NOISE, set_alpha_to_one=False, steps_offset=1)


class NoisePredictionStage(Stage):
    """Noise prediction with min-SNR weights (Hang et al. 2023, gamma 5).

    Args:
        model: The network to train.
        schedule: How long and how fast.
        scenes: Latents to train on; channels from the fifth on are latents of degraded pictures.
        stream: Name of the stage's random stream.
        ema_decay: Decay of the moving average.
        drop: Probability that a caption is replaced by the empty one, for classifier-free guidance.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        scenes: Scenes,
        stream: str,
        ema_decay: float,
        drop: float = 0.1,
    ) -> None:
        super().__init__(model, schedule, scenes, captions=True, ema_decay=ema_decay)
        self.stream, self.drop = stream, drop
        self.noise = noise_schedule()
        alphas = self.noise.alphas_cumprod
        snr = alphas / (1 - alphas)
        self.weights = torch.clamp(snr, max=5.0) / snr

    def predict(
        self, noised: Tensor, steps: Tensor, texts: list[str], degraded: Tensor, random: torch.Generator
    ) -> Tensor:
        """The noise (n, 4, h, w) that the network predicts.

        Args:
            noised: Noised latents (n, 4, h, w).
            steps: Their steps (n,), 0 to 999, on the same device.
            texts: A caption for each.
            degraded: Latents (n, 4, h, w) of the degraded pictures; (n, 0, h, w) where there are none.
            random: The step's random stream, for what else is drawn.
        """
        raise NotImplementedError

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss, and the plain ``mse`` to log."""
        clean, degraded = batch["images"][:, :4], batch["images"][:, 4:]
        random = generator(self.schedule.seed, self.stream, batch["step"])
        n = len(clean)
        dropped = torch.rand(n, generator=random) < self.drop
        texts = ["" if drop else text for text, drop in zip(batch["captions"], dropped, strict=True)]
        steps = torch.randint(0, 1000, (n,), generator=random)
        noise = torch.randn(clean.shape, generator=random).to(clean)
        noised = self.noise.add_noise(clean, noise, steps.to(clean.device))
        prediction = self.predict(noised, steps.to(self.device), texts, degraded, random)
        squared = (prediction.float() - noise).pow(2).mean((1, 2, 3))
        loss = 2 * (squared * self.weights[steps].to(squared)).mean()
        return loss, {"mse": squared.detach().mean()}
