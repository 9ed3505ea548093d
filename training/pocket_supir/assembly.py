"""Puts the trained stages of the pocket's SUPIR together as the two models that the real loader reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from lightning_drift.common.atomic import atomic_write
from lightning_drift.supir.network.autoencoder import FirstStage
from lightning_drift.supir.network.layout import first_stage_names, network_names
from lightning_drift.supir.network.unet import SupirNetwork
from lightning_drift.weights.configs import model_options
from lightning_drift.weights.int8_rows import packed
from training.pocket_supir.models import UNET, VAE
from training.pocket_supir.stages import first_stage, trained_network
from training.pocket_supir.text import pocket_text_encoders

Storage = Literal["int8", "float8", "float16"]


def assemble(state: Path, out: Path, storage: Storage = "int8") -> None:
    """Write SUPIR's own weights under their official names, and the base as a diffusers folder.

    ``out/supir.safetensors`` is what ``model.supir`` takes, ``out/sdxl`` what ``model.sdxl`` does.

    Args:
        state: Folder of the trained stages.
        out: Folder of the two models.
        storage: How weights are kept: integers with a scale for every row, plain float8_e4m3fn, or float16.
    """
    write_models(trained_network(state), first_stage(state), out, storage)


def write_models(network: SupirNetwork, stage: FirstStage, out: Path, storage: Storage) -> None:
    """Write the two models of a network and a first stage; the text encoders are the pocket's."""
    names = network_names(network.state_dict(), network.unet.config)
    names |= first_stage_names(stage.state_dict(), stage.vae.config)
    own = {
        names[name]: tensor
        for name, tensor in (network.state_dict() | stage.state_dict()).items()
        if name.startswith(("control.", "project_modules.", "denoise_encoder."))
    }
    _write(out / "supir.safetensors", own, storage)
    base = out / "sdxl"
    index = {"_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.42.1"}
    _write_json(base / "model_index.json", index)
    for part, model, config in (("unet", network.unet, UNET), ("vae", stage.vae, VAE)):
        kind = {"_class_name": type(model).__name__}
        _write_json(base / part / "config.json", kind | dict(config))
        _write(base / part / "diffusion_pytorch_model.safetensors", model.state_dict(), storage)
    text = pocket_text_encoders()
    for part, model in (("text_encoder", text.clip_l), ("text_encoder_2", text.bigg)):
        _write_json(base / part / "config.json", model_options(model.config.to_diff_dict()))
        _write(base / part / "model.safetensors", model.state_dict(), storage)
    text.tokenizer.save_pretrained(str(base / "tokenizer"))


def _write(path: Path, state: Mapping[str, Tensor], storage: Storage) -> None:
    tensors, metadata = packed(state)
    if storage != "int8":
        # The same weights as in 8-bit integers are narrowed, the others stay float16.
        narrow = torch.float8_e4m3fn if storage == "float8" else torch.float16
        tensors = {
            name: tensor.detach().to(narrow if tensors[name].dtype == torch.int8 else torch.float16)
            for name, tensor in state.items()
        }
        metadata = {"format": "pt"}
    with atomic_write(path) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())
