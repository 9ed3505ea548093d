"""How pictures are restored: every choice in one value, and the words for it in a picture's PNG text."""

from dataclasses import dataclass
from typing import Literal

import torch

from lightning_drift.supir.memory.levels import Memory
from lightning_drift.supir.sampling.samplers import EdmSampling
from lightning_drift.supir.sampling.tiling import Tiling

ColorFix = Literal["Wavelet", "AdaIn", "Lab", "None"]

LATENT = 8
"""Pixels a side of one latent cell of SDXL's autoencoder."""


@dataclass(frozen=True)
class Method:
    """How pictures are restored.

    Args:
        sampling: Sampler, steps and scales.
        prompt: General prompt, added to every caption.
        negative_prompt: What to steer away from.
        color_fix: `Wavelet`, `AdaIn`, `Lab` or `None`.
        color_reference: Where colours are taken from: `stage1` or `input`.
        tile: Window edge in latent units; 0 samples every picture whole.
        stride: Distance between windows, latent units.
        whole: Pixels of a picture, as processed, that is sampled whole whatever the windows.
        tile_batch: Windows per pass of the network.
        diff_dtype: Dtype of the network.
        ae_dtype: Dtype of the autoencoder, float32 or bfloat16.
        vae_tiles: The reference's tiled autoencoder: tile edges in pixels and latent units; None for the
            exact one.
        memory: Measures against running out of memory.
        compile: Compile the network.
        size: Edge of the original and the target picture that the networks are told.
        cell: Pixels a side of one latent cell of the base's autoencoder.
    """

    sampling: EdmSampling
    prompt: str = ""
    negative_prompt: str = ""
    color_fix: ColorFix = "Wavelet"
    color_reference: Literal["stage1", "input"] = "stage1"
    tile: int = 0
    stride: int = 64
    whole: int = 0
    tile_batch: int = 1
    diff_dtype: torch.dtype = torch.float32
    ae_dtype: torch.dtype = torch.float32
    vae_tiles: tuple[int, int] | None = None
    memory: Memory = "auto"
    compile: bool = False
    size: int = 1024
    cell: int = LATENT

    @property
    def reference(self) -> bool:
        """Whether everything is done as the reference does it; decided by the sampling."""
        return self.sampling.reference

    def tiling(self, width: int, height: int) -> Tiling:
        """The windows of sampling a picture of so many pixels as processed."""
        tile = self.tile if width * height > self.whole else 0
        return Tiling(tile, self.stride, self.tile_batch, self.reference)

    def window_count(self, width: int, height: int) -> int:
        """Windows of a picture of so many pixels as processed."""
        return len(self.tiling(width, height).windows(height // self.cell, width // self.cell))

    def described(self, size: tuple[int, int] | None = None) -> dict[str, object]:
        """What decides a picture's pixels, prompts apart, in the words of image metadata.

        Args:
            size: The picture's width and height as processed, in pixels; None where they are not known.
        """
        sampling = self.sampling
        fix = self.color_fix if self.color_fix == "None" else f"{self.color_fix} ({self.color_reference})"
        settings: dict[str, object] = {
            "Steps": sampling.steps,
            "Sampler": sampling.sampler,
            "CFG scale": f"{sampling.s_cfg:g}",
            "Control scale": f"{sampling.control_scale:g}",
            "Color fix": fix,
            "s_noise": f"{sampling.s_noise:g}",
        }
        if sampling.spt_linear_cfg is not None:
            settings["CFG scale start"] = f"{sampling.spt_linear_cfg:g}"
        if sampling.spt_control_scale is not None:
            settings["Control scale start"] = f"{sampling.spt_control_scale:g}"
        if sampling.s_stage1 > 0:
            settings["Restoration scale"] = f"{sampling.s_stage1:g}"
        if sampling.sampler == "edm":
            settings["s_churn"] = f"{sampling.s_churn:g}"
        else:
            settings["Eta"] = f"{sampling.eta:g}"
        if self.tile and (size is None or self.tiling(*size).tile):
            settings["Tile size"] = self.tile * self.cell
            settings["Tile overlap"] = (self.tile - self.stride) * self.cell
        settings["Denoiser dtype"] = str(self.diff_dtype).removeprefix("torch.")
        settings["Autoencoder dtype"] = str(self.ae_dtype).removeprefix("torch.")
        if self.size != 1024:
            settings["Size condition"] = self.size
        if self.memory == "8bit":
            settings["Weights"] = "8bit"
        if self.reference:
            settings["Reference numerics"] = "yes"
        if self.vae_tiles is not None:
            settings["Autoencoder tiles"] = f"{self.vae_tiles[0]}/{self.vae_tiles[1]}"
        return settings
