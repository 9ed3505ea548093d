"""The two assembled models taken apart into the weights of their stages, for a training to go on from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lightning_drift.supir.network.find import find_sdxl, find_supir
from lightning_drift.supir.network.weights import open_checkpoints
from training.pocket_supir.autoencoder import write_state


def unpack(supir: str, sdxl: str, state: Path) -> None:
    """Write the weights that `assemble` put together as those of finished stages, without their optimizers.

    Args:
        supir: As ``model.supir``.
        sdxl: As ``model.sdxl``.
        state: Folder of the stages; ``autoencoder``, ``denoise``, ``base`` and ``control`` are written.

    Raises:
        UserError: There are no such models, or they cannot be read.
    """
    opened = open_checkpoints(find_supir(supir), find_sdxl(sdxl))
    stage, network = opened.first_stage(torch.float32), opened.network(torch.float32)
    stage.vae.half().save_pretrained(state / "autoencoder" / "weights")
    write_state(stage.denoise_encoder, state / "denoise" / "weights")
    write_state(network.unet, state / "base" / "weights")
    write_state(
        nn.ModuleDict({"control": network.control, "project": network.project_modules}),
        state / "control" / "weights",
    )
