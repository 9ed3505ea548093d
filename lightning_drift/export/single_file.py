"""Writing a model as one half-precision safetensors file in the LDM layout, tensor by tensor."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lightning_drift.common.atomic import atomic_write
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.opened_pipeline import PARTS
from lightning_drift.stable_diffusion.sampling import ddim
from lightning_drift.stable_diffusion.sd15 import sd15_config, sd15_models
from lightning_drift.weights import ldm_names
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer
from lightning_drift.weights.metadata import METADATA

HASH_ENTRY = "modelspec.hash_sha256"


def ldm_tensors(model: StableDiffusion) -> dict[str, Tensor]:
    """The model's weights under their LDM names and shapes, in its own precision, sharing its memory."""
    unet, vae, text = model.unet.state_dict(), model.vae.state_dict(), model.text_encoder.state_dict()
    names = [
        (unet, ldm_names.unet_names(unet, model.unet.config)),
        (vae, ldm_names.vae_names(vae, model.vae.config)),
        (text, ldm_names.text_encoder_names(text)),
    ]
    return {
        ldm: ldm_names.to_ldm_shape(ldm, state[name]) for state, table in names for name, ldm in table.items()
    }


def write_half(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as float16 safetensors, one at a time, so that no second copy of the model is held.

    The file appears complete at its final name or not at all. Its metadata gains ``modelspec.hash_sha256``:
    ``0x`` and the sha256 of the tensor part (ModelSpec 1.0.1). The format is that of safetensors: the
    header's length as 8 bytes, the header as JSON padded with spaces to a multiple of 8, then the tensors.
    """
    names = sorted(tensors)
    header: dict[str, Any] = {"__metadata__": {**metadata, HASH_ENTRY: f"0x{'0' * 64}"}}
    end = 0
    for name in names:
        begin, end = end, end + 2 * tensors[name].numel()
        header[name] = {"dtype": "F16", "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        file.write(_header_bytes(header))
        with tqdm(total=end, unit="B", unit_scale=True, desc=path.name, leave=False, mininterval=0.5) as bar:
            for chunk in _float16_chunks(tensors[name] for name in names):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        # The hash was unknown when the header was written; it has the same length now.
        header["__metadata__"][HASH_ENTRY] = f"0x{digest.hexdigest()}"
        file.seek(0)
        file.write(_header_bytes(header))


# Entries of a config on where it came from or how the model is stored, not on what it computes.
_IDENTITY = (
    "sample_size",
    "force_upcast",
    "architectures",
    "dtype",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def is_plain_sd15(model: StableDiffusion) -> bool:
    """Whether SD v1.5's configs, tokenizer and noise schedule describe the model."""
    same_parts = all(_essence(getattr(model, part)) == _essence(sd15_models()[part]) for part in PARTS)
    schedule, usual = (
        {key: value for key, value in ddim(config).config.items() if key != "prediction_type"}
        for config in (model.scheduler_config, sd15_config("scheduler"))
    )
    return same_parts and schedule == usual and model.tokenizer.get_vocab() == sd15_tokenizer().get_vocab()


def _essence(model: Any) -> dict[str, Any]:
    """The entries of a model's config that decide what it computes, in one spelling."""
    config = _config(model)
    heads = config.get("attention_head_dim")
    if isinstance(heads, list | tuple) and len(set(heads)) == 1:
        config["attention_head_dim"] = heads[0]
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if not key.startswith("_") and key not in _IDENTITY and value is not None
    }


def _config(model: Any) -> dict[str, Any]:
    """A model's whole config as plain values."""
    config = model.config
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {
        key: value for key, value in values.items() if key not in {"_name_or_path", "transformers_version"}
    }


def parts_metadata(model: StableDiffusion) -> dict[str, str]:
    """Metadata from which ``read_single_file`` rebuilds a model that SD v1.5's configs do not describe."""
    parts = {part: {**_config(getattr(model, part))} for part in PARTS}
    parts["text_encoder"]["dtype"] = "float32"
    entry = {
        **parts,
        "scheduler": model.scheduler_config,
        "tokenizer": model.tokenizer.backend_tokenizer.to_str(),
        "model_max_length": model.tokenizer.model_max_length,
    }
    return {f"{METADATA}parts": json.dumps(entry)}


def _header_bytes(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _float16_chunks(tensors: Iterator[Tensor]) -> Iterator[bytes]:
    for tensor in tensors:
        yield tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes()
