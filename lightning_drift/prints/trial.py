"""What SUPIR takes for a print: seconds from short trials on the device, bytes counted without computing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from math import sqrt
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.text import byte_size
from lightning_drift.forecast.autocast import CudaAutocast
from lightning_drift.forecast.ledger import Ledger, total
from lightning_drift.prints.measuring import device_name, packing, resident
from lightning_drift.prints.plan import Costs
from lightning_drift.prints.sizes import MULTIPLE, Frame, Size
from lightning_drift.supir.memory.levels import GIB, MARGIN, RESERVE_GIB, STRIP_TILE, free_bytes
from lightning_drift.supir.network.denoiser import Conditioning
from lightning_drift.supir.network.weights import Checkpoints, empty_first_stage, empty_network
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.settings import Method

PATIENCE = 6.0
"""Seconds that one trial may take, as far as a smaller one before it tells."""

_FIRST = 256
"""Pixels a side of the smallest trial."""


def costs(
    checkpoints: Checkpoints,
    method: Method,
    device: torch.device,
    tasks: Sequence[tuple[str, Sequence[Frame]]],
) -> Costs:
    """What prints take that are made one after the other.

    Args:
        checkpoints: Both models.
        method: How they are made.
        device: Where.
        tasks: For each print its caption and its passes.
    """
    free, begin = free_bytes(device), perf_counter()
    restorer = Restorer(checkpoints, method, device)
    restorer.prompts.encode({caption for caption, _ in tasks})
    largest = max((frame.padded for _, frames in tasks for frame in frames), key=_area)
    restorer.placement.plan(largest[1], largest[0], 1)
    restorer.first_stage()
    restorer.network()
    loading = perf_counter() - begin
    trial = PrintTrial(restorer)
    held = trial.held()
    seconds = [trial.seconds(caption, frames) for caption, frames in tasks]
    return Costs(
        loading, seconds, held + trial.peak(largest), free, device_name(device), trial.notes(largest)
    )


class PrintTrial:
    """Times and counts the parts of one restorer.

    Args:
        restorer: Loaded at the first trial.
    """

    def __init__(self, restorer: Restorer) -> None:
        self.restorer = restorer
        self.method = restorer.method
        self._seconds: dict[tuple[str, Size], float] = {}
        self._pack = 0.0
        self._counted: dict[tuple[str, Size], tuple[int, float]] = {}

    def seconds(self, caption: str, frames: Sequence[Frame]) -> float:
        """Seconds of one print."""
        steps = self.method.sampling.steps
        return sum(
            steps * self.step(frame.padded, caption) + self.coding(frame.padded) for frame in frames
        ) + self._writing(frames[-1].output)

    def notes(self, size: Size) -> tuple[str, ...]:
        """How a picture of a size as processed is made in bounded memory, a line each."""
        level = self.restorer.placement.level
        lines = [f"measures {level}, of full, offload, sequential, stream and 8bit (model.memory)"]
        count, edge = self.method.window_count(*size), self.method.cell * self.method.tiling(*size).tile
        if count > 1:
            window = min(size[0], edge), min(size[1], edge)
            inside, whole = (self._count("network", each) for each in (window, size))
            lines.insert(
                0,
                f"windows  {count} of {window[0]}x{window[1]} pixels: {byte_size(inside[0])} of live tensors "
                f"in the network and {count * inside[1] / 1e12:.3g} TFLOP an evaluation; "
                f"{byte_size(whole[0])} and {whole[1] / 1e12:.3g} TFLOP without windows",
            )
        return tuple(lines)

    # -- seconds -----------------------------------------------------------------------------------------

    def step(self, size: Size, caption: str) -> float:
        """Seconds of a sampler's step over one picture of a size as processed, (width, height)."""
        windows = self.method.tiling(*size).windows(size[1] // self.method.cell, size[0] // self.method.cell)
        first = windows[0]
        cell = self.method.cell
        window = (first.x1 - first.x0) * cell, (first.y1 - first.y0) * cell
        guided = not self._positive(caption).equals(self.restorer.prompts.negative)
        return len(windows) * (1 + guided) * self._timed("network", window, self._denoise)

    def coding(self, size: Size) -> float:
        """Seconds of the first stage and the colour fix of one picture of a size as processed."""
        self.restorer.placement.plan(size[1], size[0], 1)
        return self._timed("first stage", size, self._code)

    def _timed(self, part: str, size: Size, run: Callable[[Size], object]) -> float:
        """Seconds at a size: tried there, or from a smaller one by the arithmetic where that takes long."""
        if (part, size) in self._seconds:
            return self._seconds[part, size]
        scale = min(1.0, _FIRST / sqrt(size[0] * size[1]))
        tried, seconds = _smaller(size, scale), 0.0
        run(tried)  # the first of all warms up
        while True:
            begin = perf_counter()
            run(tried)
            if self.restorer.device.type == "cuda":
                torch.cuda.synchronize(self.restorer.device)
            seconds = perf_counter() - begin
            if tried == size:
                break
            larger = _smaller(size, scale := min(1.0, 2 * scale))
            if seconds * self._work(part, larger) / self._work(part, tried) > PATIENCE:
                break
            tried = larger
        seconds *= self._work(part, size) / self._work(part, tried)
        self._seconds[part, size] = seconds
        return seconds

    def _writing(self, output: Size) -> float:
        """Seconds of packing a PNG or TIFF of a size."""
        self._pack = self._pack or packing()
        return self._pack * output[0] * output[1]

    def _positive(self, caption: str) -> Conditioning:
        return self.restorer.prompts.positive([(caption,)])[0]

    def _denoise(self, size: Size) -> None:
        restorer, cell = self.restorer, self.method.cell
        network = restorer.network()
        latent = torch.zeros(1, 4, size[1] // cell, size[0] // cell, device=restorer.device)
        cond = restorer.prompts.negative
        with restorer.placement.working(network):
            dtype = network.dtype
            network(
                latent.to(dtype),
                torch.zeros(1, device=restorer.device),
                cond.context.to(restorer.device, dtype),
                cond.vector.to(restorer.device, dtype),
                latent.to(dtype),
                self.method.sampling.control_scale,
            )

    def _code(self, size: Size) -> None:
        restorer = self.restorer
        stage = restorer.first_stage()
        picture = torch.zeros(1, 3, size[1], size[0], device=restorer.device)
        with restorer.placement.working(stage):
            latent = stage.encode_degraded(picture)
            shown = stage.decode(latent)
            if self.method.sampling.restores:
                latent = stage.encode(shown)
            out = stage.decode(latent)
        restorer.fixed(out, shown)

    # -- bytes -------------------------------------------------------------------------------------------

    def peak(self, size: Size) -> int:
        """Bytes at most beside the weights, while a picture of a size as processed is made."""
        method, placement = self.method, self.restorer.placement
        placement.plan(size[1], size[0], 1)
        edge = method.cell * method.tiling(*size).tile
        window = (min(size[0], edge), min(size[1], edge)) if edge else size
        passes = 1 if placement.sequential else 2
        count = passes * min(method.tile_batch, method.window_count(*size))
        sampling = count * self._count("network", window)[0]
        coding = self._count("first stage", size)[0]
        pictures = 6 * 3 * 4 * size[0] * size[1]  # what comes in, stage one, result, and the colour fix's
        return int(MARGIN * max(sampling, coding) + pictures)

    def held(self) -> int:
        """Bytes of weights on the device, or of the whole process where that is the CPU."""
        if self.restorer.device.type == "cpu":
            gc.collect()
            return resident()
        footprint = self.restorer.placement.footprint(MULTIPLE, MULTIPLE)
        level = self.restorer.placement.level or "full"
        return footprint.peak(level) - footprint.sampling(level) + int(RESERVE_GIB * GIB)

    def _work(self, part: str, size: Size) -> float:
        return self._count(part, size)[1]

    def _count(self, part: str, size: Size) -> tuple[int, float]:
        """Bytes of live tensors at their peak, beside weights, and arithmetic of a part at a size."""
        if (part, size) not in self._counted:
            self._counted[part, size] = self._rehearsed(part, size)
        return self._counted[part, size]

    @torch.no_grad()
    def _rehearsed(self, part: str, size: Size) -> tuple[int, float]:
        configs = self.restorer.checkpoints.sdxl.configs
        device, cell = self.restorer.device.type, self.method.cell
        attention = CudaAutocast("cpu" if device == "cpu" else "cuda")
        with torch.device("meta"):
            shape = (1, 4, size[1] // cell, size[0] // cell)
            if part == "network":
                network = empty_network(configs["unet"]).to(self.method.diff_dtype)
                unet: Any = network.unet
                latent = torch.zeros(shape, dtype=network.dtype)
                context = torch.zeros(1, 77, unet.config["cross_attention_dim"], dtype=network.dtype)
                width = unet.config["projection_class_embeddings_input_dim"]
                vector = torch.zeros(1, width, dtype=network.dtype)
                with attention, Ledger(cpu=device == "cpu") as ledger:
                    network(latent, torch.zeros(1), context, vector, latent)
                return total(ledger.peak()), sum(flop for flop, _ in ledger.work)
            stage = empty_first_stage(configs["vae"]).to(self.method.ae_dtype)
            if self.restorer.placement.level not in ("full", "offload"):
                stage.run_in_strips(STRIP_TILE)
            picture = torch.zeros(1, 3, size[1], size[0])
            with attention, Ledger(cpu=device == "cpu") as ledger:
                latent = stage.encode_degraded(picture)
                shown: Tensor = stage.decode(latent)
                if self.method.sampling.restores:
                    latent = stage.encode(shown)
                stage.decode(latent)
            return total(ledger.peak()), sum(flop for flop, _ in ledger.work)


def _smaller(size: Size, scale: float) -> Size:
    """A size scaled down to what the networks take."""
    if scale >= 1:
        return size
    wide, high = (max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in size)
    return min(wide, size[0]), min(high, size[1])


def _area(size: Size) -> int:
    return size[0] * size[1]
