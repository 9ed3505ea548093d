"""Giving a model its weights, strictly: nothing may be missing, left over or of another shape."""

from collections.abc import Mapping

import torch
from torch import nn

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import listed
from lightning_drift.weights.files import Weights
from lightning_drift.weights.finite import is_finite
from lightning_drift.weights.mapped import let_go, let_rest, mappings_of

_RANGE = {
    dtype: torch.finfo(dtype).max for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
"""The largest number of each dtype."""


def compare(model: nn.Module, weights: Weights, part: str, stored: Mapping[str, str] | None = None) -> None:
    """Compare names and shapes of weights with what a model needs, reading none.

    A tensor may differ from the model's by trailing dimensions of size 1 (a linear layer as a convolution).

    Args:
        model: The model; its own tensors may be on the meta device.
        weights: The weights under the model's names.
        part: What messages call the model, such as ``UNet``.
        stored: The name of each weight in its file, for messages; None where it is the model's.

    Raises:
        UserError: Weights are missing, unexpected or of another shape; the message names them.
    """
    stored = stored or {}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    faults = []
    if missing := [stored.get(name, name) for name in shapes if name not in weights.shapes]:
        faults.append(f"missing {listed(missing)}")
    if unexpected := [stored.get(name, name) for name in weights.shapes if name not in shapes]:
        faults.append(f"unexpected {listed(unexpected)}")
    if misshapen := [
        f"{stored.get(name, name)} {list(weights.shapes[name])} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in weights.shapes and _squeezed(weights.shapes[name]) != _squeezed(shape)
    ]:
        faults.append(f"of another shape {listed(misshapen)}")
    if faults:
        raise UserError(f"the {part} weights of {weights.origin} do not fit the model: {'; '.join(faults)}")


def fill(
    model: nn.Module,
    weights: Weights,
    part: str,
    dtype: torch.dtype = torch.float32,
    *,
    stored: Mapping[str, str] | None = None,
    mapped: bool = False,
) -> None:
    """Give a model built on the meta device its weights, each cast to a dtype as it is read.

    Args:
        model: The model; its parameters are replaced.
        weights: As for `compare`.
        part: As for `compare`.
        dtype: The dtype that the weights get.
        stored: As for `compare`.
        mapped: Weights of this dtype stay in the memory of the mapped file, and what that memory held of the
            others is let go; else all are copies, so that nothing depends on the file once it is loaded.

    Raises:
        UserError: Weights do not fit (see `compare`), are not floating point, cannot be read, hold NaN or
            infinity, or are beyond the dtype's largest number.
    """
    compare(model, weights, part, stored)
    stored = stored or {}
    state = {}
    mappings = mappings_of(weights.files) if mapped else []
    for name, empty in model.state_dict().items():
        called = f"{weights.part}.{name}" if weights.part else f"{part} {stored.get(name, name)}"
        tensor = weights.read(name, called)
        if not tensor.is_floating_point():
            raise UserError(
                f"the {part} weights of {weights.origin} hold {stored.get(name, name)} as {tensor.dtype}, "
                "not floating point"
            )
        state[name] = tensor.to(dtype, copy=not mapped).reshape(empty.shape).contiguous()
        if _RANGE[dtype] < _RANGE.get(tensor.dtype, 0) and not is_finite(state[name]):
            raise UserError(
                f"{weights.origin}: {called} reaches {tensor.abs().max().item():.4g}, beyond the "
                f"largest number of {str(dtype).removeprefix('torch.')}"
            )
        if mapped and state[name].data_ptr() != tensor.data_ptr():
            let_go(tensor)
        elif mapped:
            let_rest(tensor, mappings)
    model.load_state_dict(state, strict=True, assign=True)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
