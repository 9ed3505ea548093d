"""The JSON configs that lie beside a model's weights, and the models that libraries build from them."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_json
from lightning_drift.common.numbers import shown
from lightning_drift.common.text import reason

MAX_SIZE = 2**20
"""The largest whole number in a model's config; the vocabulary of SD v1.5, 49,408, is its largest."""
MAX_LAYERS = 1000
"""Layers of a network at most; SDXL's UNet, the deepest that is read, has 70 transformer layers."""
MAX_SAMPLE = 1024
"""Latent cells (or pixels of a CLIP's picture) along an edge at most."""

_RECORDS = {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version"}
_LISTS = ("down_block_types", "up_block_types", "block_out_channels")
_BY_LEVEL = (
    *("block_out_channels", "layers_per_block", "attention_head_dim", "cross_attention_dim"),
    *("transformer_layers_per_block", "num_attention_heads"),
)
"""What may be a list: a number for each level of a network."""
_COUNTS = (
    *("block_out_channels", "layers_per_block", "in_channels", "out_channels", "latent_channels"),
    *("cross_attention_dim", "attention_head_dim", "norm_num_groups", "sample_size", "hidden_size"),
    *("intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
    *("vocab_size", "projection_dim", "transformer_layers_per_block", "image_size", "patch_size"),
    *("addition_time_embed_dim", "projection_class_embeddings_input_dim", "num_channels"),
)
_TEXTS = ("down_block_types", "up_block_types", "act_fn", "hidden_act")
_REALS = ("scaling_factor", "norm_eps", "layer_norm_eps")
_MAY_BE_NULL = ("num_attention_heads", "addition_time_embed_dim", "projection_class_embeddings_input_dim")


def read_config(path: Path) -> dict[str, Any]:
    """Read a config of a model's folder.

    Raises:
        UserError: There is no such file, it cannot be read, or it is not a JSON object.
    """
    if not path.exists():
        raise UserError(f"no such file: {path}; the model's folder is not complete")
    return read_json(path, "config")


def read_model_config(path: Path) -> dict[str, Any]:
    """Read the config of a network; see `check_config`.

    Raises:
        UserError: As `read_config`, or a value cannot be that of a network.
    """
    config = read_config(path)
    check_config(config, str(path))
    return config


def check_config(config: Any, name: str) -> None:
    """Refuse a network's config whose values have the wrong type or size, before anything is built of them.

    Building a network takes time and memory by its layers even where its weights take none.

    Args:
        config: A config of diffusers or transformers; those nested in it are checked too.
        name: What messages call it, such as its file.

    Raises:
        UserError: A value is no number, list or text where one is due, or out of bounds.
    """
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UserError(f"{name} is not a config: it holds {shown(config)}")
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("_config"):
            check_config(value, name)
        elif not _possible(key, value):
            raise UserError(f"{name} is damaged: {key} is {shown(value)}")
    layers = math.prod(
        max(_each(config.get(key), 1)) for key in ("layers_per_block", "transformer_layers_per_block")
    )
    layers *= max(len(_each(config.get("block_out_channels"), 1)), int(config.get("num_hidden_layers") or 1))
    if layers > MAX_LAYERS:
        raise UserError(f"{name} describes a network of {layers} layers; at most {MAX_LAYERS} are built")


def _possible(key: str, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    if key in _LISTS and not (isinstance(value, list) and value):
        return False
    if len(values) > 64 or (isinstance(value, list) and not value and key in _COUNTS):
        return False
    if value is None and key in _MAY_BE_NULL:
        return True
    if key in _TEXTS:
        return all(isinstance(item, str) for item in values)
    if key in _REALS:
        return all(_is_number(item) and 0 < item < 1e6 for item in values)
    if key in _COUNTS:
        if isinstance(value, list) and key not in _BY_LEVEL:
            return False
        most = MAX_SAMPLE if key in ("sample_size", "image_size") else MAX_SIZE
        return all(_is_whole(item) and 1 <= item <= most for item in values)
    return all(not _is_number(item) or abs(item) <= MAX_SIZE for item in values)


def _each(value: Any, absent: int) -> list[int]:
    return [absent] if value is None else value if isinstance(value, list) else [value]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def model_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of diffusers or transformers without what records only who wrote it and how it is stored."""
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in _RECORDS}


@contextmanager
def describing(config: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises over a config into a sentence that names the config.

    Args:
        config: What messages call the config, such as its file.
        what: What it should describe, such as ``Stable Diffusion 1.x model``.

    Raises:
        UserError: Instead of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # constructors raise nearly anything over a value that they do not expect
        raise UserError(f"{config} describes no {what}: {reason(error)}") from error
