"""Names and shapes of Stable Diffusion 1.x weights in the single-file layout of CompVis' latent diffusion.

It is the layout that A1111, Forge and ComfyUI read. Names are derived from a model's config, so they hold for
any model of the family, whatever its widths, depth and attention levels. All functions are pure; the maps
``{diffusers name: LDM name}`` are one to one, so their inverse is the way back.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_ENCODER_PREFIX = "cond_stage_model.transformer."

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ENDS = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The LDM name of a ``UNet2DConditionModel`` weight.

    A level of the encoder is ``layers_per_block`` blocks and a downsampler, each with an index of its own; a
    level of the decoder is ``layers_per_block + 1`` blocks, with the upsampler appended to the last.
    """
    layers = int(config["layers_per_block"])
    if match := re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name
    ):
        way, kind, rest = match[1], match[3], match[5]
        level, layer = int(match[2]), int(match[4])
        if kind == "downsamplers":
            return f"{UNET_PREFIX}input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            slot = 2 if "CrossAttn" in config["up_block_types"][level] else 1
            return f"{UNET_PREFIX}output_blocks.{level * (layers + 1) + layers}.{slot}.{rest}"
        block = level * (layers + 1) + layer
        place = f"input_blocks.{block + 1}" if way == "down" else f"output_blocks.{block}"
        slot = 0 if kind == "resnets" else 1
        return f"{UNET_PREFIX}{place}.{slot}.{_replaced(rest, _UNET_RESNET) if kind == 'resnets' else rest}"
    renamed = _replaced(name, _UNET_ENDS)
    if match := re.fullmatch(r"(middle_block\.[02])\.(.+)", renamed):
        renamed = f"{match[1]}.{_replaced(match[2], _UNET_RESNET)}"
    return UNET_PREFIX + renamed


def vae_name(name: str, config: Mapping[str, Any]) -> str:
    """The LDM name of an ``AutoencoderKL`` weight; LDM counts the decoder's levels from the finest."""
    levels = len(config["block_out_channels"])
    if match := re.fullmatch(r"(encoder|decoder)\.(.+)", name):
        half, rest = match[1], _replaced(match[2], _VAE_ENDS)
        if block := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", rest):
            level = int(block[2]) if block[1] == "down" else levels - 1 - int(block[2])
            inner = f"block.{block[4]}" if block[3] == "resnets" else block[3].removesuffix("rs")
            rest = f"{block[1]}.{level}.{inner}.{block[5]}"
        if ".attn_1." in rest:
            head, inner = rest.split(".attn_1.")
            rest = f"{head}.attn_1.{_replaced(inner, _VAE_ATTENTION)}"
        name = f"{half}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    return VAE_PREFIX + name


def text_encoder_name(name: str) -> str:
    """The LDM name of a ``CLIPTextModel`` weight; it has ``text_model.`` whether transformers' has or not."""
    return f"{TEXT_ENCODER_PREFIX}text_model.{name.removeprefix('text_model.')}"


def unet_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """``{diffusers name: LDM name}`` of a UNet."""
    return {name: unet_name(name, config) for name in names}


def vae_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """``{diffusers name: LDM name}`` of an autoencoder."""
    return {name: vae_name(name, config) for name in names}


def text_encoder_names(names: Iterable[str]) -> dict[str, str]:
    """``{transformers name: LDM name}`` of a text encoder."""
    return {name: text_encoder_name(name) for name in names}


def to_ldm_shape(ldm_name: str, tensor: Tensor) -> Tensor:
    """The tensor as LDM stores it: the autoencoder's attention is a 1x1 convolution ``[c, c, 1, 1]``."""
    is_attention = ldm_name.startswith(VAE_PREFIX) and ".attn_1." in ldm_name
    return tensor[:, :, None, None] if is_attention and tensor.ndim == 2 else tensor


def current_vae_name(name: str) -> str:
    """Today's diffusers name of an autoencoder weight; its attention was once query, key, value."""
    if match := re.fullmatch(r"(.+\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)", name):
        return f"{match[1]}.{_OLD_VAE_ATTENTION[match[2]]}.{match[3]}"
    return name


def _replaced(name: str, table: Mapping[str, str]) -> str:
    """The name with a leading ``old.`` of the table replaced by ``new.``."""
    for old, new in table.items():
        if name.startswith(f"{old}."):
            return f"{new}.{name.removeprefix(f'{old}.')}"
    return name
