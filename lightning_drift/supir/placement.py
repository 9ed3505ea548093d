"""Where the parts of one run lie while they work and while they wait, and in how large pieces they run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import torch
from torch import nn

from lightning_drift.common.errors import notice
from lightning_drift.supir.memory.levels import STRIP_TILE, Footprint, Level, choose, free_bytes
from lightning_drift.supir.memory.offload import Stream, lent
from lightning_drift.supir.network.autoencoder import FirstStage
from lightning_drift.supir.network.unet import SupirNetwork
from lightning_drift.supir.network.weights import (
    Checkpoints,
    empty_first_stage,
    empty_network,
    empty_text_encoders,
)
from lightning_drift.supir.settings import Method


class Placement:
    """Takes the measures against running out of memory that a method asks for, or that a picture needs.

    Args:
        checkpoints: The models; only their sizes are read.
        method: What asks for measures.
        device: Where parts work.

    Attributes:
        level: The measures taken; None before the first picture.
        lends: Whether parts are moved at all; what is on the CPU already need not be.
    """

    def __init__(self, checkpoints: Checkpoints, method: Method, device: torch.device) -> None:
        self.checkpoints, self.method, self.device = checkpoints, method, device
        self.level: Level | None = None
        self.lends = device.type != "cpu"
        self._free = free_bytes(device)
        self._spare = 0  # bytes of streamed weights that may stay on the device
        self._spill = False  # whether whole feature maps of the autoencoder must stay on the host
        self._weights: Footprint | None = None

    @property
    def sequential(self) -> bool:
        """Whether the two halves of the guidance go through the network one after the other."""
        return self.level not in ("full", "offload")

    def plan(self, height: int, width: int, samples: int) -> None:
        """Choose the measures for the picture that needs most of them so far, and say so."""
        if self.method.memory != "auto" and self.method.memory != "stream":
            self.level = self.method.memory
            return
        footprint = self.footprint(height, width, samples)
        self._spare = self._free - footprint.sampling("stream")
        self._spill = self._free < footprint.first_stage + footprint.coding("stream")
        if self.method.memory == "stream":
            self.level = "stream"
            return
        level, reason = choose(footprint, self._free, self.device)
        order = get_args(Level)
        if self.level is None or order.index(level) > order.index(self.level):
            notice(f"memory: {level}, since {reason}")
            self.level = level

    def footprint(self, height: int, width: int, samples: int = 1) -> Footprint:
        """Bytes of the weights and of pictures of a size as processed."""
        method, configs = self.method, self.checkpoints.sdxl.configs
        if self._weights is None:
            parts = (
                (empty_network(configs["unet"]), method.diff_dtype),
                (empty_first_stage(configs["vae"]), method.ae_dtype),
                (empty_text_encoders(self.checkpoints.sdxl), method.diff_dtype),
            )
            sizes = [sum(p.numel() for p in part.parameters()) * dtype.itemsize for part, dtype in parts]
            self._weights = Footprint(sizes[0], sizes[1], sizes[2], pixels=0)
        window = height * width
        if edge := method.cell * method.tiling(width, height).tile:
            window = min(height, edge) * min(width, edge)
            samples *= min(method.tile_batch, method.window_count(width, height))
        return replace(
            self._weights,
            pixels=height * width,
            samples=samples,
            window=window,
            network_bytes=method.diff_dtype.itemsize,
            first_stage_bytes=method.ae_dtype.itemsize,
        )

    def arrange(self, stage: FirstStage) -> None:
        """Have the autoencoder run whole, in strips, or in the reference's tiles."""
        if self.method.vae_tiles is not None:
            stage.run_in_reference_tiles(*self.method.vae_tiles)
        elif self.level in ("full", "offload"):
            stage.run_whole()
        else:
            spill = self.level == "stream" and self.lends and self._spill
            stage.run_in_strips(STRIP_TILE, torch.device("cpu") if spill else None)

    @contextmanager
    def working(self, module: nn.Module) -> Iterator[None]:
        """Have a part's weights on the device while it works; at level `full` they stay there."""
        if self.level == "full" or not self.lends:
            module.to(self.device)
            yield
            return
        if next(module.parameters()).device.type != "cpu":
            module.to("cpu")  # an earlier, smaller picture was restored at level full
        if self.level == "stream" and isinstance(module, SupirNetwork):
            with Stream(module, self.device, max(0, self._spare)).running():
                yield
            return
        with lent(module, self.device):
            yield
