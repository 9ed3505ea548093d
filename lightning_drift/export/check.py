"""What an export is checked for: half precision holds the weights, and it computes as its source."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lightning_drift.common.errors import UserError, notice
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, TRAINED, OpenedPipeline

_HALF_MAX = 65504.0
_TOLERANCE = 1e-5
"""Relative difference of two outputs of the same weights: nothing but the order of sums in float32."""


def read_source(opened: OpenedPipeline) -> StableDiffusion:
    """Load the model to export.

    Raises:
        UserError: It cannot be read, or half precision cannot hold it.
    """
    notice(f"reading {opened.source}")
    model = load_opened(opened)
    for part in PARTS:
        _refuse_beyond_half(part, getattr(model, part).state_dict(), opened.source)
    return model


def _refuse_beyond_half(part: str, state: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are NaN or infinite, or beyond float16's largest number, 65504."""
    for name, tensor in state.items():
        largest = tensor.abs().max().item()  # NaN if any is
        if not math.isfinite(largest):
            raise UserError(
                f"{origin} has diverged: {part}.{name} holds NaN or infinity; export an earlier checkpoint"
            )
        if largest > _HALF_MAX:
            raise UserError(
                f"{origin} does not fit half precision: {part}.{name} reaches {largest:.4g}, "
                f"float16 ends at {_HALF_MAX:.0f}"
            )


def round_to_half_(model: StableDiffusion) -> None:
    """Round a model's weights to float16 and back to float32, in place."""
    for part in PARTS:
        module = getattr(model, part)
        torch.nn.Module.half(module)
        torch.nn.Module.float(module)


@torch.no_grad()
def round_change_to_half_(model: StableDiffusion, base: OpenedPipeline) -> None:
    """Give a model the weights W0 + half(W - W0) in place: what a base and a float16 delta give back.

    Args:
        model: The fine-tune W in float32; its UNet and text encoder are changed.
        base: Its base W0.
    """
    for part in TRAINED:
        for name, tensor in getattr(model, part).state_dict().items():
            start = base.weights[part].read(name).float().reshape(tensor.shape)
            tensor.copy_(start + (tensor - start).half().float())


@torch.no_grad()
def probe(model: StableDiffusion) -> dict[str, Tensor]:
    """Call the text encoder and the UNet once on fixed input, to tell whether two models compute the same.

    Returns:
        The prompt's features ``[1, tokens, hidden]`` and the UNet's output ``[1, 4, s, s]``.
    """
    length = model.tokenizer.model_max_length
    prompt = model.tokenizer(
        "a photo of sks person", padding="max_length", max_length=length, return_tensors="pt"
    )
    condition = model.text_encoder(prompt.input_ids)[0]
    side = 2 ** len(model.unet.config.block_out_channels)  # two cells at the coarsest level: quick
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    return {"text encoder": condition, "UNet": model.unet(noise, 500, condition)[0]}


@torch.no_grad()
def probe_whole(model: StableDiffusion) -> dict[str, Tensor]:
    """Likewise, with the autoencoder: `probe` and a fixed picture ``[1, 3, S, S]`` encoded and decoded."""
    side = 2 ** (len(model.vae.config.block_out_channels) + 1)  # four latent cells
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = model.vae.encode(pixels).latent_dist.mean
    return {**probe(model), "VAE": model.vae.decode(latent, return_dict=False)[0]}


def refuse_other_outputs(expected: Mapping[str, Tensor], outputs: Mapping[str, Tensor], target: Path) -> None:
    """Refuse an export whose networks compute something else than they should.

    Args:
        expected: The outputs by part of the source with its weights rounded as the export rounds them.
        outputs: The outputs of the export as it was read back.
        target: The export.

    Raises:
        UserError: They differ by more than float32 arithmetic, which means that weights or configs were
            damaged or mixed up on the way.
    """
    for part, tensor in expected.items():
        difference, norm = (outputs[part] - tensor).norm().item(), tensor.norm().item()
        if not difference <= _TOLERANCE * norm:  # NaN fails too
            raise UserError(
                f"{target} was written, but does not compute as its source: the {part}'s output differs by "
                f"{difference / norm if norm else math.inf:.3%} from that of the source's weights rounded to "
                "half precision. It was left for inspection; do not use it"
            )
