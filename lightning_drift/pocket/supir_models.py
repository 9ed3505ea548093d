"""The pocket's SUPIR untrained: our own modules of the SDXL layout at tiny width, for prints of 256 px."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from lightning_drift.supir.adapters import ZeroCrossAttn, ZeroSFT
from lightning_drift.supir.autoencoder import SCALING, FirstStage
from lightning_drift.supir.control import ControlEncoder
from lightning_drift.supir.unet import SupirNetwork

PRINT = 256
"""Side of the prints that are trained on: four times the pocket's 64 pixels."""

UNET: Mapping[str, Any] = {
    "sample_size": PRINT // 8,
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 1, 1],
    "attention_head_dim": [1, 2, 2],
    "cross_attention_dim": 256,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 224,
    "norm_num_groups": 32,
}
"""SDXL's UNet with a tenth to a twentieth of its channels and one transformer layer where it has ten.

The widths are multiples of 32, which SUPIR's adapters ask for; the context is two text encoders of 128, the
vector one projection of 128 and six sizes of 16 numbers.
"""

VAE: Mapping[str, Any] = {
    "block_out_channels": [16, 48, 64, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "scaling_factor": SCALING,
    "sample_size": PRINT,
}
"""SDXL's autoencoder, 8 pixels a latent cell, with the widths of the pocket's own and a level more."""


def new_vae(pocket: Any | None = None) -> Any:
    """An untrained autoencoder, or one that begins from what the pocket's own has learnt.

    Args:
        pocket: The pocket's AutoencoderKL (three levels); its finest levels and its mid blocks have the
            shapes of this one's, so the weights are taken over where they fit.
    """
    vae: Any = AutoencoderKL.from_config(dict(VAE))
    if pocket is None:
        return vae
    known = pocket.state_dict()
    state = vae.state_dict()
    for name, tensor in state.items():
        # The decoder's levels are counted from the coarsest, so the pocket's 0 is this one's 1.
        source = name
        if name.startswith("decoder.up_blocks."):
            level = int(name.split(".")[2])
            source = name.replace(f"up_blocks.{level}", f"up_blocks.{level - 1}", 1)
        found = known.get(source)
        if found is not None and found.shape == tensor.shape:
            state[name] = found.float()
    vae.load_state_dict(state)
    return vae


def new_first_stage(vae: Any) -> FirstStage:
    """An autoencoder with a denoise encoder that begins as a copy of its encoder."""
    return FirstStage(vae, copy.deepcopy(vae.encoder))


def new_unet() -> Any:
    """An untrained UNet."""
    return UNet2DConditionModel.from_config(dict(UNET))


def new_network(unet: Any) -> SupirNetwork:
    """The network that the last stage trains: the control encoder copies the UNet, the adapters do little.

    The hint and all that an adapter adds begin at zero, as in SUPIR's training.

    Args:
        unet: The trained base.
    """
    network = SupirNetwork(unet, ControlEncoder(copy.deepcopy(unet)))
    silent: list[nn.Module] = [network.control.hint]
    for adapter in network.project_modules:
        if isinstance(adapter, ZeroSFT):
            silent += [adapter.zero_mul, adapter.zero_add, adapter.zero_conv]
        elif isinstance(adapter, ZeroCrossAttn):
            silent.append(adapter.attn.to_out)
    with torch.no_grad():
        for layer in silent:
            for parameter in layer.parameters():
                parameter.zero_()
    return network


@torch.no_grad()
def to_unit_scale(vae: Any, std: float) -> None:
    """Rescale an autoencoder's latents, whose standard deviation is `std`, so that SDXL's factor fits them.

    SUPIR multiplies latents by 0.13025 whatever the autoencoder; so the convolutions beside the latent take
    the difference, and pictures stay what they are.
    """
    factor = 1 / (SCALING * std)
    quant, post = vae.quant_conv, vae.post_quant_conv
    means = quant.weight.shape[0] // 2
    quant.weight[:means] *= factor
    quant.bias[:means] *= factor
    quant.bias[means:] += 2 * torch.log(Tensor([factor])).item()
    post.weight /= factor
