"""A checkpoint of a fit, read without running code that it may hold, and without a Trainer."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.common.out_of_memory import refuse_full
from lightning_drift.weights.torch_file import refuse_packed

MAX_STEP = 10**18  # no step of a fit is this high


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint of a fit, memory-mapped, on the CPU.

    Raises:
        UserError: If it is missing, damaged, packed, holds anything but tensors and plain data, or is not a
            checkpoint.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")
    if zipfile.is_zipfile(path):
        refuse_packed(Path(path))
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zip, pickle and mapping errors share no base class
        refuse_full(error, f"the checkpoint {path}")
        raise UserError(
            f"cannot read the checkpoint {path}: it is damaged, incomplete or not a checkpoint of this "
            f"trainer ({type(error).__name__}). Resume from an earlier one"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "global_step" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of this trainer; pass a file that a fit has saved")
    step, state = checkpoint["global_step"], checkpoint["state_dict"]
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < MAX_STEP:
        raise UserError(f"{path} tells {shown(step)} as its step, which is none; resume from an earlier one")
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} does not hold a model's weights; resume from an earlier one")
    return checkpoint
