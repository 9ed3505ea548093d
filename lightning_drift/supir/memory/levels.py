"""Which measures against running out of memory are taken, and why.

The steps, each with those before it: `offload` keeps a part on the device only while it works; `sequential`
evaluates the two halves of the guidance one after the other and runs the autoencoder in strips; `stream`
lends the network's weights layer by layer. None of these changes a picture beyond rounding. `8bit` is
`sequential` with 8-bit weights.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from lightning_drift.common.host_memory import free_host_bytes

Level = Literal["full", "offload", "sequential", "stream", "8bit"]
Memory = Literal["auto", "full", "offload", "sequential", "stream", "8bit"]

GIB = 2**30
MEGAPIXEL = 2**20

# Peak beside the weights, per megapixel and sample in 16 bits. Live tensors were counted on the meta device
# at 2048x2048 with attention that stores no scores, kernels' workspaces are in the margin; that of the whole
# autoencoder is what an H100 took (docs/supir.md): its convolutions' workspaces exceed the margin.
NETWORK_GIB = 0.29
AUTOENCODER_GIB = 2.0
STRIPS_GIB = 1.08
MARGIN = 1.15
RESERVE_GIB = 0.5
STRIP_TILE = 512


@dataclass(frozen=True)
class Footprint:
    """Bytes of the parts' weights, and the largest picture to make.

    Args:
        network: UNet, control encoder and adapters.
        first_stage: Autoencoder and denoise encoder.
        text: Text encoders.
        pixels: Pixels of a picture as processed.
        samples: Pictures, or windows of one, that go through the network together.
        window: Pixels that the network sees at a time: the picture's or one window's.
        network_bytes: Bytes of one number in the network.
        first_stage_bytes: Bytes of one number in the autoencoder.
    """

    network: int
    first_stage: int
    text: int
    pixels: int
    samples: int = 1
    window: int = 0
    network_bytes: int = 2
    first_stage_bytes: int = 2

    def sampling(self, level: Level) -> int:
        """Estimated bytes while sampling, beside the network's weights."""
        passes = 2 if level in ("full", "offload") else 1
        pixels = (self.window or self.pixels) / MEGAPIXEL * self.samples * passes
        return int(MARGIN * NETWORK_GIB * GIB * pixels * self.network_bytes / 2 + RESERVE_GIB * GIB)

    def coding(self, level: Level) -> int:
        """Estimated bytes while encoding or decoding, beside the autoencoder's weights."""
        each = AUTOENCODER_GIB if level in ("full", "offload") else STRIPS_GIB
        pixels = self.pixels / MEGAPIXEL
        return int(MARGIN * each * GIB * pixels * self.first_stage_bytes / 2 + RESERVE_GIB * GIB)

    def peak(self, level: Level) -> int:
        """Estimated peak in bytes at a level."""
        network = {"8bit": self.network // self.network_bytes, "stream": 0}.get(level, self.network)
        sampling, coding = self.sampling(level), self.coding(level)
        if level == "full":  # the text encoders are gone by then
            return max(self.text, network + self.first_stage + max(sampling, coding))
        return max(self.text, network + sampling, self.first_stage + coding)


def choose(footprint: Footprint, free: int, device: torch.device) -> tuple[Level, str]:
    """The lightest level that fits, and the reason in a sentence.

    `8bit` is never chosen: it changes the picture. On a CPU weights cannot be moved away, so only `full` and
    `sequential` are considered.
    """
    levels: tuple[Level, ...] = ("full", "offload", "sequential", "stream")
    if device.type == "cpu":
        levels = ("full", "sequential")
    for level in levels:
        if footprint.peak(level) <= free:
            break
    need = footprint.peak(level) / GIB
    size = f"{footprint.pixels / 1e6:.1f} megapixels"
    reason = f"{free / GIB:.1f} GiB are free on {device} and {size} need about {need:.1f} GiB at this level"
    if level != levels[0]:
        lighter = levels[levels.index(level) - 1]
        reason += f", {footprint.peak(lighter) / GIB:.1f} GiB at {lighter}"
    if need > free / GIB:
        reason += "; this may not be enough (8bit or a smaller tile_size need less)"
    return level, reason


def smaller(level: Level | None, device: torch.device) -> Level | None:
    """The next level that takes less memory; None after the last one.

    Args:
        level: What was taken; None before the first picture.
        device: On a CPU weights cannot be moved away.
    """
    order: tuple[Level, ...] = get_args(Level)
    later = order[order.index(level) + 1 :] if level is not None else order[1:]
    if device.type == "cpu":
        later = tuple(each for each in later if each == "sequential")
    return later[0] if later else None


def free_bytes(device: torch.device) -> int:
    """Bytes free on a device; for a CPU the host memory that can be had without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes()
