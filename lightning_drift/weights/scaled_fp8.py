"""Weights in 8-bit floats, each with a scale, as ComfyUI's models are published; widened as they are read.

A weight is ``X.weight`` in float8_e4m3fn or float8_e5m2, and stands for itself times its scale: one for the
tensor or one for each output row. There are two layouts. In the older one the scale is ``X.scale_weight``,
and an empty tensor ``scaled_fp8`` marks the model. In the newer one it is ``X.weight_scale``, and the format
is named by JSON: in the bytes of ``X.comfy_quant``, or for all layers in ``_quantization_metadata`` among the
metadata (ComfyUI's QUANTIZATION.md). Scales of activations (``scale_input``, ``input_scale``) serve 8-bit
arithmetic, which is not done here.
"""

import json
from math import prod
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.common.text import listed
from lightning_drift.weights.mapped import let_go
from lightning_drift.weights.safetensors_file import Opened

FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}

_SCALES = (".scale_weight", ".weight_scale")
_OF_ACTIVATIONS = (".scale_input", ".input_scale")
_MARK, _FORMAT, _IN_METADATA = "scaled_fp8", ".comfy_quant", "_quantization_metadata"
_OF_OTHER_FORMATS = (".weight_scale_2", ".pre_quant_scale", ".weight_scalar")
_SETTINGS = {"format", "full_precision_matrix_mult"}
"""What a layer's JSON may hold; anything else may change what the numbers mean."""
_MAX_JSON = 4096
"""Bytes of one layer's JSON; it takes about 30."""


def unscaled(opened: Opened, origin: str) -> Opened:
    """A safetensors file whose scaled weights are read as float32, their scales applied and out of sight.

    Args:
        opened: The file as it is; one without scaled weights is returned as it came.
        origin: What messages call it.

    Raises:
        UserError: It holds weights of another format (such as nvfp4, mxfp8 or int8), or scales that do not
            fit their weights.
    """
    shapes, read, metadata = opened
    beside = {name for name in shapes if _is_beside(name)}
    if not beside and _IN_METADATA not in metadata:
        return opened
    formats = _formats(opened, origin)
    if other := [name for name in beside if name.endswith(_OF_OTHER_FORMATS)]:
        raise UserError(f"{origin} {_unread('scales', other)}")
    scales = {name.rpartition(".")[0]: name for name in beside if name.endswith(_SCALES)}
    for layer in {**scales, **formats}:
        _check_layer(opened, layer, scales.get(layer), formats.get(layer), origin)

    def wide(name: str) -> Tensor:
        layer, _, end = name.rpartition(".")
        if end != "weight" or (layer not in scales and layer not in formats):
            return read(name)
        stored = read(name)
        numbers = stored.view(FORMATS[formats[layer]]) if stored.dtype == torch.uint8 else stored
        weight = numbers.float()
        if layer in scales:
            scale = read(scales[layer]).float()
            weight.mul_(scale.reshape(-1, *[1] * (weight.ndim - 1)) if scale.numel() > 1 else scale.squeeze())
        let_go(stored)
        return weight

    return {name: shape for name, shape in shapes.items() if name not in beside}, wide, metadata


def _is_beside(name: str) -> bool:
    """Whether a tensor is no weight, but tells something of one."""
    ends = (*_SCALES, *_OF_ACTIVATIONS, *_OF_OTHER_FORMATS, _FORMAT, f".{_MARK}")
    return name == _MARK or name.endswith(ends)


def _formats(opened: Opened, origin: str) -> dict[str, str]:
    """The format of each layer that names one."""
    shapes, read, metadata = opened
    told: dict[str, Any] = {}
    if _IN_METADATA in metadata:
        everything = _json(metadata[_IN_METADATA], origin, f"its metadata's {_IN_METADATA}")
        layers = everything.get("layers", {})
        if not isinstance(layers, dict):
            raise UserError(f"{origin} is damaged: the layers of its {_IN_METADATA} are {shown(layers)}")
        told.update(layers)
    for name, shape in shapes.items():
        if name.endswith(_FORMAT):
            if len(shape) != 1 or shape[0] > _MAX_JSON or (text := read(name)).dtype != torch.uint8:
                raise UserError(f"{origin} is damaged: {name} is no text")
            told[name.removesuffix(_FORMAT)] = _json(bytes(text.tolist()), origin, name)
    formats = {}
    for layer, settings in told.items():
        if not isinstance(settings, dict) or not isinstance(settings.get("format"), str):
            raise UserError(f"{origin} is damaged: the format of {layer} is {shown(settings)}")
        unknown = [key for key, value in settings.items() if key not in _SETTINGS and value]
        if settings["format"] not in FORMATS or unknown:
            kind = f"{settings['format']} with {listed(unknown)}" if unknown else settings["format"]
            raise UserError(f"{origin} {_unread(f'weights in the format {kind}', [layer])}")
        formats[layer] = settings["format"]
    return formats


def _json(text: str | bytes, origin: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is damaged: {where} is not valid JSON") from error
    if not isinstance(value, dict):
        raise UserError(f"{origin} is damaged: {where} holds {shown(value)}")
    return value


def _check_layer(opened: Opened, layer: str, scale: str | None, kind: str | None, origin: str) -> None:
    shapes, read, _ = opened
    name = f"{layer}.weight"
    if name not in shapes:
        raise UserError(f"{origin} is damaged: it holds a scale or a format of {name}, which it lacks")
    dtype = read(name).dtype  # of the mapped file; no number is read
    if dtype not in FORMATS.values() and not (dtype == torch.uint8 and kind is not None):
        raise UserError(f"{origin} {_unread(f'scaled weights in {_called(dtype)}', [name])}")
    if scale is None:
        return
    rows, shape = shapes[name][:1], shapes[scale]
    fits = prod(shape) == 1 or (shape[:1] == rows and prod(shape) == rows[0])
    if read(scale).dtype not in (torch.float32, torch.float16, torch.bfloat16) or not fits:
        raise UserError(
            f"{origin} {_unread(f'scales {list(shape)} in {_called(read(scale).dtype)}', [scale])}; "
            "one for each tensor or each output row is read"
        )


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _unread(what: str, names: list[str]) -> str:
    """What is wrong and what to do; a sentence's end."""
    return (
        f"holds {what} ({listed(names)}), which are not read; give a float16, float32, or plain or scaled "
        "float8 version of the model"
    )
