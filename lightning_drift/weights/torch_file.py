"""Opening a ``torch.save`` file without running code: tensors and plain values, in bounded memory."""

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import check_file
from lightning_drift.common.out_of_memory import refuse_full
from lightning_drift.common.text import byte_size

MAX_PICKLE = 256 * 2**20
"""What the description of the tensors may take; that of a whole fit's checkpoint takes 1 MiB."""


class _Inert:
    """Stands for a class that old checkpoints name beside their weights; it has no behaviour."""


class _NumpyType:
    """Stands for a ``numpy.dtype`` in a pickle: what it takes to read a number of it, and no more."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufc]\d{1,2}", code):
            raise pickle.UnpicklingError("a numpy value that is no number")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]


def _numpy_number(kind: _NumpyType, data: bytes) -> Any:
    """A pickled numpy scalar as a Python number."""
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a numpy value that is no number")
    (number,) = np.frombuffer(data, np.dtype(kind.order + kind.code))
    return number.item()


# What old trainers wrote beside the weights. LDM's (v1-5-pruned.ckpt) and old Lightning name a callback as a
# key, and keep a score as a numpy number.
_CALLBACKS = ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
_HARMLESS: list[Any] = [
    *((_Inert, f"pytorch_lightning.callbacks.{name}") for name in _CALLBACKS),
    *((_numpy_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (_NumpyType, "numpy.dtype"),
]


def load_torch_file(path: Path) -> dict[str, Any]:
    """Read a ``torch.save`` file with ``weights_only=True``, mapped into memory where its format allows.

    Raises:
        UserError: The file is missing, damaged, packed, or its pickle holds anything but weights and plain
            values.
    """
    check_file(path, "weight file")
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        refuse_packed(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
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
    except (
        Exception
    ) as error:  # damaged archives and pickles raise nearly anything: struct.error, RecursionError
        refuse_full(error, str(path))
        raise UserError(
            f"{path} is not a readable torch file: it may be cut short or damaged; fetch it again"
        ) from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not named weights")
    return loaded


def refuse_packed(path: Path) -> None:
    """Refuse an archive that grows when it is unpacked; ``torch.save`` only stores."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is not a readable torch file: it may be cut short or damaged; fetch it again"
        ) from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UserError(f"{path} is a packed archive, not a model as torch saves it: unpack it first")
        if entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE:
            raise UserError(f"{path} is not a model: {entry.filename} takes {byte_size(entry.file_size)}")
