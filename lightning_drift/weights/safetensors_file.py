"""Opening a safetensors file in bounded memory, whatever its header says."""

import json
import mmap
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.common.out_of_memory import refuse_full
from lightning_drift.common.text import byte_size, reason

MAX_HEADER = 32 * 2**20
"""What a header may take: that of the largest models takes less than 1 MiB, a tokenizer in it some more."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Opened = tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor], dict[str, str]]


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever it is called: a length, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**40


def open_safetensors(path: Path) -> Opened:
    """Shapes by name, a reader of one tensor by name that shares the mapped file's memory, and the metadata.

    Metadata that are no texts, as some tools write, are taken as their JSON text.

    Raises:
        UserError: The file is cut short, damaged, or its header is larger than 32 MiB.
    """
    with path.open("rb") as file:
        head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if length > MAX_HEADER and length + 8 <= path.stat().st_size:
        raise UserError(
            f"{path} is not a readable safetensors file: its header takes {byte_size(length)}, more than "
            "any model's"
        )
    try:
        opened: Any = safe_open(path, framework="pt", device="cpu")
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        return shapes, opened.get_tensor, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        refuse_full(error, str(path))
        header = _header(path, length)
        if header is None or not _has_odd_metadata(header):
            raise UserError(
                f"{path} is not a readable safetensors file: it may be cut short or damaged; "
                f"fetch it again ({reason(error)})"
            ) from error
        return _open_by_header(path, header, 8 + length)


def _header(path: Path, length: int) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(min(length, MAX_HEADER)))
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def _has_odd_metadata(header: Mapping[str, Any]) -> bool:
    metadata = header.get("__metadata__", {})
    return not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values())


def _open_by_header(path: Path, header: dict[str, Any], start: int) -> Opened:
    """As safetensors itself opens a file; it refuses one for a number among the metadata."""
    given = header.pop("__metadata__", {})
    entries = given.items() if isinstance(given, dict) else ()
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in entries
        if value is not None
    }
    places = {name: _place(name, entry, path) for name, entry in header.items()}
    size = path.stat().st_size - start
    end = 0
    for name, (dtype, shape, offset) in sorted(places.items(), key=lambda item: item[1][2]):
        if offset != end:
            raise UserError(f"{path} is damaged: {name} does not begin where the tensor before it ends")
        end = offset + prod(shape) * dtype.itemsize
    if end != size:
        raise UserError(f"{path} is cut short or damaged: it holds {size} bytes of weights instead of {end}")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def read(name: str) -> Tensor:
        dtype, shape, offset = places[name]
        if not prod(shape):
            return torch.empty(shape, dtype=dtype)
        flat = torch.frombuffer(mapped, dtype=dtype, count=prod(shape), offset=start + offset)
        return flat.reshape(shape)

    return {name: shape for name, (_, shape, _) in places.items()}, read, metadata


def _place(name: str, entry: Any, path: Path) -> tuple[torch.dtype, tuple[int, ...], int]:
    """Dtype, shape and first byte of a tensor."""
    try:
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if all(type(number) is int and 0 <= number < 2**48 for number in (*shape, begin, end)) and (
            end - begin == prod(shape) * dtype.itemsize
        ):
            return dtype, tuple(shape), begin
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f"{path} is damaged: its header describes {name} as {shown(entry)}")
