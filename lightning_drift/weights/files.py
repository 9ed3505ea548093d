"""Weight files read tensor by tensor: safetensors, whole or sharded, and torch files without code.

What a file holds is seen from its first bytes; its name decides nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import check_file, read_json
from lightning_drift.common.numbers import shown
from lightning_drift.common.out_of_memory import refuse_full
from lightning_drift.common.text import listed, reason
from lightning_drift.weights.finite import refuse_not_finite
from lightning_drift.weights.int8_rows import EIGHT_BIT, ROW_SCALE
from lightning_drift.weights.safetensors_file import is_safetensors, open_safetensors
from lightning_drift.weights.scaled_fp8 import unscaled
from lightning_drift.weights.torch_file import load_torch_file

_FOREIGN = {
    b"version https://git-lfs": "a git-lfs pointer, not the weights; run `git lfs pull` in its repository",
    b"GGUF": "a GGUF file; give a .safetensors version of the model",
    b"<!DOCTYPE": "a web page, not the weights: a page was saved in the file's place; fetch it again",
    b"<!doctype": "a web page, not the weights: a page was saved in the file's place; fetch it again",
    b"<html": "a web page, not the weights: a page was saved in the file's place; fetch it again",
    b"\x1f\x8b": "packed (gzip); unpack it first",
    b"7z\xbc\xaf": "packed (7z); unpack it first",
    b"Rar!": "packed (rar); unpack it first",
}


@dataclass(frozen=True)
class Weights:
    """Named tensors that are read one at a time, so that a model is never in memory twice.

    Attributes:
        origin: What messages call them, usually the file.
        shapes: The shape of each tensor, by name.
        stored: Gives one tensor by name, whatever it holds; it may share memory with the mapped file.
        files: The files that hold them.
        metadata: The text metadata of a safetensors file.
        part: The part of a pipeline that they are, such as ``unet``, for messages; empty where unknown.
        checked: Whether ``read`` refuses what is no number; off for weights that are a module's own.
    """

    origin: str
    shapes: Mapping[str, tuple[int, ...]]
    stored: Callable[[str], Tensor]
    files: tuple[Path, ...]
    metadata: Mapping[str, str]
    part: str = ""
    checked: bool = True

    def read(self, name: str, called: str = "") -> Tensor:
        """One tensor; it may share memory with the mapped file.

        Args:
            name: Its name.
            called: What messages call it; by default its name, after that of the part.

        Raises:
            UserError: It cannot be read, or holds NaN or infinity.
        """
        called = called or (f"{self.part}.{name}" if self.part else name)
        try:
            tensor = self.stored(name)
        except UserError:
            raise
        except Exception as error:  # each reader has its own, and a damaged file meets all of them
            refuse_full(error, f"{self.origin}: {called}")
            raise UserError(
                f"{self.origin}: {called} cannot be read ({reason(error)}); fetch the file again"
            ) from error
        if self.checked:
            refuse_not_finite({called: tensor}, self.origin)
        return tensor

    def renamed(self, names: Mapping[str, str], part: str = "") -> "Weights":
        """The tensors ``names[new] == old`` under their new names, as a part of a pipeline."""
        return replace(
            self,
            shapes={new: self.shapes[old] for new, old in names.items()},
            stored=lambda new: self.stored(names[new]),
            part=part or self.part,
        )

    def under(self, prefix: str, part: str = "") -> "Weights":
        """The tensors whose names begin with ``prefix``, without it."""
        names = {key.removeprefix(prefix): key for key in self.shapes if key.startswith(prefix)}
        return self.renamed(names, part)


def open_weights(path: Path) -> Weights:
    """Open a weight file: safetensors, the JSON index of a sharded model, else a torch file.

    Raises:
        UserError: The file is missing, truncated, not a weight file, or holds code instead of weights.
    """
    kind = kind_of(path)
    if kind == "index":
        return _open_shards(path)
    if kind == "safetensors":
        shapes, read, metadata = unscaled(open_safetensors(path), str(path))
        weights = Weights(str(path), shapes, read, (path,), metadata)
        return _widened(weights) if EIGHT_BIT.items() <= weights.metadata.items() else weights
    return from_state_dict(load_torch_file(path), path)


def kind_of(path: Path) -> str:
    """What a weight file is: ``safetensors``, ``index`` or ``torch``, by its content.

    Where the first bytes tell nothing the name does, so that a damaged file is called what it was.

    Raises:
        UserError: It cannot be read, is empty, or is recognised as something else.
    """
    if not path.exists():
        raise UserError(f"no such file: {path}")
    check_file(path, "weight file")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise UserError(f"{path} is empty (zero bytes); fetch it again")
    for mark, what in _FOREIGN.items():
        if head.startswith(mark):
            raise UserError(f"{path} is {what}")
    if is_safetensors(path):
        return "safetensors"
    if head.lstrip().startswith((b"{", b"[")) or path.suffix == ".json":
        return "index"
    is_torch = head.startswith((b"PK", b"\x80"))
    return "safetensors" if path.suffix.lower() in (".safetensors", ".sft") and not is_torch else "torch"


def from_state_dict(state: Mapping[str, Any], path: Path) -> Weights:
    """The tensors of a loaded torch file; nests under ``state_dict`` where Lightning puts them, even twice.

    Raises:
        UserError: It holds none, or some whose numbers are not plainly there (sparse, quantised, meta).
    """
    while isinstance(inner := state.get("state_dict"), Mapping):
        state = inner
    tensors = {
        key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise UserError(f"{path} holds no named weights; is it a Stable Diffusion checkpoint?")
    if odd := [key for key, value in tensors.items() if not _is_plain(value)]:
        raise UserError(f"{path} holds tensors that are no plain weights: {listed(odd)}")
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return Weights(str(path), shapes, tensors.__getitem__, (path,), {})


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _widened(weights: Weights) -> Weights:
    """Weights in 8 bits as float16 tensors, their scales applied and out of sight."""
    scales = {name for name in weights.shapes if name.endswith(ROW_SCALE)}

    def read(name: str) -> Tensor:
        tensor = weights.stored(name)
        if name + ROW_SCALE not in scales:
            return tensor
        scale = weights.read(name + ROW_SCALE)
        return tensor.half() * scale.reshape(-1, *[1] * (tensor.ndim - 1))

    shapes = {name: shape for name, shape in weights.shapes.items() if name not in scales}
    return replace(weights, shapes=shapes, stored=read)


def _open_shards(index: Path) -> Weights:
    placed = read_json(index, "index of weight files").get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise UserError(f"{index} is not an index of weight files: it has no weight_map")
    for key, name in placed.items():
        if not isinstance(name, str) or not name or Path(name).name != name or name in (".", ".."):
            raise UserError(
                f"{index} is damaged: it places {shown(key)} in {shown(name)}, which is no file beside it"
            )
    shards = {name: _open_shard(index, name) for name in sorted(set(placed.values()))}
    absent = [key for key, name in placed.items() if key not in shards[name].shapes]
    if absent:
        raise UserError(f"{index} names weights that its files lack: {listed(absent)}")
    return Weights(
        origin=str(index),
        shapes={key: shards[name].shapes[key] for key, name in placed.items()},
        stored=lambda key: shards[placed[key]].stored(key),
        files=tuple(file for shard in shards.values() for file in shard.files),
        metadata={},
    )


def _open_shard(index: Path, name: str) -> Weights:
    path = index.parent / name
    if kind_of(path) == "index":
        raise UserError(
            f"{index} is damaged: it places weights in {name}, which is an index and no weight file"
        )
    return open_weights(path)
