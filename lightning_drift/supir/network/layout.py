"""Names of our modules' weights in the official files: SUPIR's own and the SDXL single-file layout (LDM)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_drift.weights import ldm_names

CONTROL_PREFIX = "model.control_model."
ADAPTER_PREFIX = ldm_names.UNET_PREFIX + "project_modules."
DENOISE_PREFIX = ldm_names.VAE_PREFIX + "denoise_encoder."
CLIP_L_PREFIX = "conditioner.embedders.0.transformer.text_model."
BIGG_PREFIX = "conditioner.embedders.1.model."

STRAY_KEYS = frozenset({"model.control_model.mask_LQ", "denoiser.sigmas"})
"""Dropped by name: a leftover of training in SUPIR-v0Q, and a table that we compute."""

_ADD_EMBEDDING = {"add_embedding.linear_1.": "label_emb.0.0.", "add_embedding.linear_2.": "label_emb.0.2."}
_BIGG = {
    "embeddings.token_embedding.": "token_embedding.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers.": "transformer.resblocks.",
    "final_layer_norm.": "ln_final.",
    "text_projection.weight": "text_projection",
}
_BIGG_LAYER = {
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The official name of a weight of the SDXL UNet."""
    for ours, theirs in _ADD_EMBEDDING.items():
        if name.startswith(ours):
            return ldm_names.UNET_PREFIX + theirs + name.removeprefix(ours)
    return ldm_names.unet_name(name, config)


def network_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """``{name in SupirNetwork: official name}``; `config` is the UNet's."""

    def official(name: str) -> str:
        part, rest = name.split(".", 1)
        if part == "unet":
            return unet_name(rest, config)
        if part == "project_modules":
            return ADAPTER_PREFIX + rest
        half, rest = rest.split(".", 1)
        if half == "hint":
            return f"{CONTROL_PREFIX}input_hint_block.0.{rest}"
        return unet_name(rest, config).replace(ldm_names.UNET_PREFIX, CONTROL_PREFIX, 1)

    return {name: official(name) for name in names}


def first_stage_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """``{name in FirstStage: official name}``; `config` is the autoencoder's."""

    def official(name: str) -> str:
        part, rest = name.split(".", 1)
        if part == "vae":
            return ldm_names.vae_name(rest, config)
        encoder = ldm_names.vae_name(f"encoder.{rest}", config)
        return DENOISE_PREFIX + encoder.removeprefix(f"{ldm_names.VAE_PREFIX}encoder.")

    return {name: official(name) for name in names}


def bigg_name(name: str) -> tuple[str, int | None]:
    """The OpenCLIP name of a weight of the larger text encoder.

    Returns:
        The official name, and for the query, key and value projections which third of it (0, 1, 2) is meant.
        The text projection is stored transposed.
    """
    name = name.removeprefix("text_model.")
    if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
        return f"{BIGG_PREFIX}transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}", "qkv".index(match[2])
    for ours, theirs in _BIGG_LAYER.items():
        name = name.replace(ours, theirs)
    for ours, theirs in _BIGG.items():
        if name.startswith(ours):
            return BIGG_PREFIX + theirs + name.removeprefix(ours), None
    raise KeyError(name)
