"""Prints for measuring: the pocket's SUPIR as its configuration has it, with options changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from lightning_drift import SupirUpscaler
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.noise import AddressedNoise

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "supir_pocket.yaml"
CPU = torch.device("cpu")


class Printer:
    """Makes prints on the CPU.

    Args:
        supir: As ``model.supir``.
        sdxl: As ``model.sdxl``.
        steps: Sampler steps.
        batch_size: Prints made together.

    Raises:
        UserError: A model is missing or of another kind.
    """

    def __init__(self, supir: str, sdxl: str, steps: int, batch_size: int) -> None:
        options: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["model"]["init_args"]
        options |= {"supir": supir, "sdxl": sdxl, "edm_steps": steps, "memory": "full"}
        module = SupirUpscaler(**options)
        module.setup("predict")
        assert module.checkpoints is not None
        self.checkpoints, self.method, self.batch_size = module.checkpoints, module.method(), batch_size
        self.stage = self.checkpoints.first_stage(torch.float32)

    def first(self, enlarged: Tensor) -> Tensor:
        """What the first stage alone makes of enlarged pictures (n, 3, h, w)."""
        return torch.cat(
            [self.stage.decode(self.stage.encode_degraded(row)) for row in enlarged.unsqueeze(1)]
        )

    def coded(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) through the autoencoder."""
        return torch.cat([self.stage.decode(self.stage.encode(row)) for row in pictures.unsqueeze(1)])

    def prints(
        self,
        enlarged: Tensor,
        texts: Sequence[str],
        seeds: Sequence[int],
        sample: int = 0,
        colour: Literal["Wavelet", "AdaIn", "None"] | None = None,
        **change: Any,
    ) -> Tensor:
        """Prints (n, 3, h, w), not clamped.

        Args:
            enlarged: The small pictures, enlarged bicubically, in -1..1.
            texts: A prompt for each.
            seeds: The seed of the noise of each.
            sample: Which sample of them.
            colour: The colour fix; None takes the configuration's.
            change: Changes of `EdmSampling`.
        """
        method = replace(
            self.method,
            sampling=replace(self.method.sampling, **change),
            color_fix=colour or self.method.color_fix,
        )
        restorer = Restorer(self.checkpoints, method, CPU)
        made = []
        for first in range(0, len(enlarged), self.batch_size):
            part = slice(first, first + self.batch_size)
            noises = [AddressedNoise(seed, sample, CPU) for seed in seeds[part]]
            made.append(restorer.restore(enlarged[part], [(text,) for text in texts[part]], noises))
        return torch.cat(made)
