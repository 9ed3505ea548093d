"""The SDXL base: a single-file checkpoint or a diffusers folder, opened but not yet read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPTokenizer

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import listed
from lightning_drift.supir.network import layout
from lightning_drift.supir.network.find import SDXL_PARTS
from lightning_drift.weights import ldm_names
from lightning_drift.weights.clip_tokenizer import read_tokenizer, sd15_tokenizer
from lightning_drift.weights.configs import read_config, read_model_config
from lightning_drift.weights.files import Weights, open_weights
from lightning_drift.weights.variants import say_variant, weight_file

SDXL_CONFIGS: Mapping[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 4,
        "scaling_factor": 0.13025,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    },
}
"""The parts' configurations in diffusers' and transformers' terms, for files that hold none."""


@dataclass(frozen=True)
class SdxlBase:
    """An SDXL model.

    Attributes:
        origin: What messages call it.
        configs: Configuration of each of `SDXL_PARTS`.
        read_part: ``(part, names)`` to the part's weights under the names that our models give them, and the
            name of each in its file.
        files: The weight files, by the name they have in the model's hash.
        tokenizer: The CLIP tokenizer.
    """

    origin: str
    configs: Mapping[str, dict[str, Any]]
    read_part: Callable[[str, Iterable[str]], tuple[Weights, dict[str, str]]]
    files: Mapping[str, Path]
    tokenizer: CLIPTokenizer


def open_sdxl(
    path: Path, configs: Mapping[str, dict[str, Any]] = SDXL_CONFIGS, own_vae: bool = True
) -> SdxlBase:
    """Open an SDXL model without reading its weights.

    Args:
        path: A single-file checkpoint, or a diffusers folder.
        configs: The configurations that a single file is taken to have.
        own_vae: Whether its autoencoder is needed; a single file may lack it else.

    Raises:
        UserError: It is damaged, incomplete, or another kind of model; the message says which.
    """
    if path.is_dir():
        return _open_folder(path)
    weights = open_weights(path)
    _refuse_other_families(weights, own_vae)

    def read_part(part: str, names: Iterable[str]) -> tuple[Weights, dict[str, str]]:
        if part == "text_encoder_2":
            return _bigg(weights, names)
        official: dict[str, Callable[[str], str]] = {
            "unet": lambda name: layout.unet_name(name, configs["unet"]),
            "vae": lambda name: ldm_names.vae_name(name, configs["vae"]),
            "text_encoder": lambda name: layout.CLIP_L_PREFIX + name.removeprefix("text_model."),
        }
        stored = {name: official[part](name) for name in names}
        return weights.renamed({name: key for name, key in stored.items() if key in weights.shapes}), stored

    return SdxlBase(
        path.name, configs, read_part, {file.name: file for file in weights.files}, sd15_tokenizer()
    )


def _bigg(weights: Weights, names: Iterable[str]) -> tuple[Weights, dict[str, str]]:
    """OpenCLIP's names and shapes as transformers has them: q, k and v apart, the projection transposed."""
    places = {name: layout.bigg_name(name) for name in names}
    present = {name: place for name, place in places.items() if place[0] in weights.shapes}

    def shape(name: str) -> tuple[int, ...]:
        key, third = present[name]
        stored = weights.shapes[key]
        if third is not None:
            return (stored[0] // 3, *stored[1:])
        return stored[::-1] if name == "text_projection.weight" else stored

    def read(name: str) -> Tensor:
        key, third = present[name]
        stored = weights.stored(key)
        if third is not None:
            return stored.chunk(3)[third]
        return stored.T if name == "text_projection.weight" else stored

    renamed = replace(weights, shapes={name: shape(name) for name in present}, stored=read)
    return renamed, {name: key for name, (key, _) in places.items()}


def _refuse_other_families(weights: Weights, own_vae: bool) -> None:
    shapes = weights.shapes

    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in shapes)

    unet = ldm_names.UNET_PREFIX
    what = None
    if has(layout.CONTROL_PREFIX):
        what = "a SUPIR checkpoint; were `supir` and `sdxl` swapped?"
    elif has(f"{unet}joint_blocks.") or has(f"{unet}double_blocks."):
        what = "a Stable Diffusion 3 or Flux checkpoint"
    elif has("cond_stage_model.transformer."):
        what = "a Stable Diffusion 1.x checkpoint"
    elif has("cond_stage_model.model."):
        what = "a Stable Diffusion 2.x checkpoint"
    elif has("conditioner.embedders.0.model."):
        what = "an SDXL refiner; its base is needed"
    elif not has(unet):
        what = "not a single-file checkpoint: it holds no UNet in the original layout"
    elif (conv := shapes.get(f"{unet}input_blocks.0.0.weight")) and len(conv) == 4 and conv[1] != 4:
        what = f"an inpainting or editing model: its UNet takes {conv[1]} channels instead of 4"
    elif own_vae and not has(ldm_names.VAE_PREFIX):
        what = "without an autoencoder, whose first stage SUPIR needs; give the full checkpoint or model.vae"
    elif not (has(layout.CLIP_L_PREFIX) and has(layout.BIGG_PREFIX)):
        what = "without both text encoders; give the full checkpoint"
    if what:
        stop = "" if what.endswith("?") else "."
        raise UserError(
            f"{weights.origin} is {what}{stop} SUPIR needs an SDXL model such as JuggernautXL v9: a "
            "full single-file checkpoint or a diffusers folder"
        )


def _open_folder(folder: Path) -> SdxlBase:
    if not (folder / "model_index.json").is_file():
        files = sorted(path.name for path in folder.iterdir() if path.suffix in {".safetensors", ".ckpt"})
        hint = f". It holds {listed(files)}: give one of these files" if files else ""
        raise UserError(f"{folder} is not a diffusers folder: it has no model_index.json{hint}")
    lacking = [part for part in (*SDXL_PARTS, "tokenizer") if not (folder / part).is_dir()]
    unet = {} if "unet" in lacking else read_model_config(folder / "unet" / "config.json")
    if lacking or unet.get("addition_embed_type") != "text_time":
        kind = read_config(folder / "model_index.json").get("_class_name", "of an unknown kind")
        reason = f"lacks {listed(lacking)}" if lacking else "has a UNet of another family"
        raise UserError(
            f"{folder} is not an SDXL model (its pipeline is {kind}; it {reason}). SUPIR needs one"
        )
    if unet.get("in_channels", 4) != 4:
        raise UserError(
            f"{folder} is an inpainting or editing model (a UNet of {unet['in_channels']} channels)"
        )
    configs = {part: read_model_config(folder / part / "config.json") for part in SDXL_PARTS}
    opened = {part: open_part(folder / part) for part in SDXL_PARTS}

    def read_part(part: str, names: Iterable[str]) -> tuple[Weights, dict[str, str]]:
        held = opened[part].shapes
        if part == "vae":
            keys = {ldm_names.current_vae_name(key): key for key in held}
        else:
            keys = {key.removeprefix("text_model."): key for key in held}
        stored = {name: keys.get(name.removeprefix("text_model."), name) for name in names}
        return opened[part].renamed({name: key for name, key in stored.items() if key in held}), stored

    return SdxlBase(
        origin=folder.name,
        configs=configs,
        read_part=read_part,
        files={
            file.relative_to(folder).as_posix(): file for part in SDXL_PARTS for file in opened[part].files
        },
        tokenizer=_fitting_tokenizer(folder, configs),
    )


def _fitting_tokenizer(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> CLIPTokenizer:
    """The tokenizer, its prompt length no more than the text encoders' positions."""
    tokenizer = read_tokenizer(folder / "tokenizer")
    for part in ("text_encoder", "text_encoder_2"):
        if len(tokenizer) > (size := configs[part].get("vocab_size", 49408)):
            raise UserError(
                f"the tokenizer of {folder} has {len(tokenizer)} tokens, its {part.replace('_', ' ')} only "
                f"{size}; they do not belong together"
            )
        positions = configs[part].get("max_position_embeddings", 77)
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def open_part(folder: Path) -> Weights:
    """Open the weights of one part of a diffusers folder.

    Raises:
        UserError: It holds none, or they are damaged.
    """
    name = weight_file([file.name for file in folder.iterdir()])
    if name is None:
        raise UserError(f"{folder} holds no weights: expected a .safetensors file")
    say_variant(name, str(folder))
    return open_weights(folder / name)
