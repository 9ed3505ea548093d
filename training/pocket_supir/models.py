"""The pocket's SUPIR untrained: our own modules of the SDXL layout at tiny width, for prints of 256 px."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from lightning_drift.supir.network.adapters import ZeroCrossAttn, ZeroSFT
from lightning_drift.supir.network.autoencoder import SCALING, FirstStage
from lightning_drift.supir.network.control import ControlEncoder
from lightning_drift.supir.network.sdxl import SDXL_CONFIGS
from lightning_drift.supir.network.unet import SupirNetwork

PRINT = 256
"""Side of the prints that are trained on: four times the pocket's 64 pixels."""

UNET: Mapping[str, Any] = SDXL_CONFIGS["unet"] | {
    "sample_size": PRINT // 4,
    "block_out_channels": [32, 64, 64],
    "transformer_layers_per_block": [1, 1, 1],
    "attention_head_dim": [1, 2, 2],
    "cross_attention_dim": 256,
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 224,
    "norm_num_groups": 32,
}
"""SDXL's UNet with a tenth to a twentieth of its channels and one transformer layer where it has ten.

The widths are multiples of 32, which SUPIR's adapters ask for; the context is two text encoders of 128, the
vector one projection of 128 and six sizes of 16 numbers.
"""

VAE: Mapping[str, Any] = {
    "block_out_channels": [16, 48, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "scaling_factor": SCALING,
    "sample_size": PRINT,
}
"""SDXL's autoencoder with a level less, 4 pixels a latent cell, and the widths of the pocket's own.

With 8 pixels a cell, four numbers for 64 pixels, an autoencoder this narrow loses more than a reduction of
the picture to a quarter does; with 4 the pocket's own weights already give prints back nearly unchanged.
"""


def new_vae(pocket: Any) -> Any:
    """The pocket's own autoencoder in SDXL's layout.

    SDXL has attention in the mid blocks and the pocket has none; it begins without effect.

    Args:
        pocket: The pocket's AutoencoderKL.
    """
    vae: Any = AutoencoderKL.from_config(dict(VAE))
    vae.load_state_dict({**vae.state_dict(), **pocket.state_dict()})
    for half in (vae.encoder, vae.decoder):
        torch.nn.init.zeros_(half.mid_block.attentions[0].to_out[0].weight)
        torch.nn.init.zeros_(half.mid_block.attentions[0].to_out[0].bias)
    vae.register_to_config(scaling_factor=pocket.config.scaling_factor)
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
