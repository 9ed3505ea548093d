"""Weight files read tensor by tensor: safetensors, whole or sharded, and torch files without code."""

import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import listed
from lightning_drift.weights.int8_rows import EIGHT_BIT, ROW_SCALE


@dataclass(frozen=True)
class Weights:
    """Named tensors that are read one at a time, so that a model is never in memory twice.

    Attributes:
        origin: What messages call them, usually the file.
        shapes: The shape of each tensor, by name.
        read: Reads one tensor by name; it may share memory with the mapped file.
        files: The files that hold them.
        metadata: The text metadata of a safetensors file.
    """

    origin: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    files: tuple[Path, ...]
    metadata: Mapping[str, str]

    def renamed(self, names: Mapping[str, str], origin: str | None = None) -> "Weights":
        """The tensors ``names[new] == old`` under their new names."""
        return replace(
            self,
            origin=origin or self.origin,
            shapes={new: self.shapes[old] for new, old in names.items()},
            read=lambda new: self.read(names[new]),
        )

    def under(self, prefix: str) -> "Weights":
        """The tensors whose names begin with ``prefix``, without it."""
        return self.renamed({key.removeprefix(prefix): key for key in self.shapes if key.startswith(prefix)})


def open_weights(path: Path) -> Weights:
    """Open a weight file: ``.safetensors``, a sharded index (``.index.json``), else a torch file.

    Raises:
        UserError: The file is missing, truncated, not a weight file, or holds code instead of weights.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    _refuse_pointer(path)
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    return from_state_dict(load_torch_file(path), path)


def from_state_dict(state: Mapping[str, Any], path: Path) -> Weights:
    """The tensors of a loaded torch file; nests under ``state_dict`` where Lightning puts them."""
    state = state.get("state_dict", state)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no named weights; is it a Stable Diffusion checkpoint?")
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return Weights(str(path), shapes, tensors.__getitem__, (path,), {})


class _Inert:
    """Stands for a class that old checkpoints name beside their weights; it has no behaviour."""


# LDM training checkpoints (v1-5-pruned.ckpt) name their Lightning callback as a key.
_HARMLESS_NAMES: list[Any] = [(_Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")]


def load_torch_file(path: Path) -> dict[str, Any]:
    """Read a ``torch.save`` file with ``weights_only=True``, mapped into memory where its format allows.

    Raises:
        UserError: The file is missing, damaged, or its pickle holds anything but weights and plain values.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    _refuse_pointer(path)
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        with torch.serialization.safe_globals(_HARMLESS_NAMES):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        match = re.search(
            r"(?:GLOBAL|Unsupported (?:global|class|operand)[^\w]*(?:GLOBAL )?)\s*([\w.]+\.[\w.]+)",
            str(error),
        )
        what = f" ({match.group(1)})" if match else ""
        raise UserError(
            f"{path} is damaged or holds Python objects besides weights{what}; it is not opened, because "
            "such a file can run code. Use a .safetensors version of the model"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{path} is not a readable torch file: it may be cut short or damaged; fetch it again"
        ) from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not named weights")
    return loaded


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(40)
    if not head:
        raise UserError(f"{path} is empty (zero bytes); fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-lfs pointer, not the weights; run `git lfs pull` in its repository")


def _open_safetensors(path: Path) -> Weights:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file: it may be cut short or damaged; "
            f"fetch it again ({error})"
        ) from error
    weights = Weights(str(path), shapes, file.get_tensor, (path,), file.metadata() or {})
    return _widened(weights) if EIGHT_BIT.items() <= weights.metadata.items() else weights


def _widened(weights: Weights) -> Weights:
    """Weights in 8 bits as float16 tensors, their scales applied and out of sight."""
    scales = {name for name in weights.shapes if name.endswith(ROW_SCALE)}

    def read(name: str) -> Tensor:
        tensor = weights.read(name)
        if name + ROW_SCALE not in scales:
            return tensor
        return tensor.half() * weights.read(name + ROW_SCALE).reshape(-1, *[1] * (tensor.ndim - 1))

    shapes = {name: shape for name, shape in weights.shapes.items() if name not in scales}
    return replace(weights, shapes=shapes, read=read)


def _open_shards(index: Path) -> Weights:
    try:
        placed: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{index} is not an index of weight files") from error
    shards = {name: open_weights(index.parent / name) for name in sorted(set(placed.values()))}
    absent = [key for key, name in placed.items() if key not in shards[name].shapes]
    if absent:
        raise UserError(f"{index} names weights that its files lack: {listed(absent)}")
    return Weights(
        origin=str(index),
        shapes={key: shards[name].shapes[key] for key, name in placed.items()},
        read=lambda key: shards[placed[key]].read(key),
        files=tuple(file for shard in shards.values() for file in shard.files),
        metadata={},
    )
