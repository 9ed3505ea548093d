"""What a fit that has run out of memory can do with less, in the order in which to take it."""

from typing import Any

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.out_of_memory import GPU, HOST, Exhausted, Remedy
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.split_optimizer import check_split
from lightning_drift.stable_diffusion.sampling import Sampling


def next_mode(module: Any) -> str | None:
    """The next smaller ``model.memory`` that this fit can take; None if there is none, or it may not.

    Args:
        module: What is trained.
    """
    modes = [*MEMORY_MODES]
    later = modes[modes.index(module.memory) + 1 :] if getattr(module, "memory", None) in modes else []
    if not later:
        return None
    try:
        check_split(later[0], module.optimizer, module.trainer, module.loss_scaler)
    except UserError:
        return None
    return later[0]


def less_for_a_step(module: Any, full: Exhausted, updating: bool = False) -> Remedy | None:
    """What makes a training step need less memory; what computes the same comes first.

    Args:
        module: What is trained.
        full: The memory that is full; the computer's, in a step on a GPU, is so by what was moved there.
        updating: It was the optimizer's update that found too little.
    """
    if full.memory == HOST and module.device.type != "cpu":
        larger = [name for name, mode in MEMORY_MODES.items() if not mode.paged][-1]
        if not MEMORY_MODES[module.memory].paged:
            return None
        return Remedy(
            f"set model.memory {larger}, which takes more of the GPU's and less of this",
            {"model.memory": larger},
        )
    if (mode := next_mode(module)) is not None:
        return Remedy(f"set model.memory {mode}, which computes the same in less", {"model.memory": mode})
    trainer, data = module.trainer, getattr(module.trainer, "datamodule", None)
    kind = module.optimizer
    if updating and module.device.type == "cuda" and kind in (torch.optim.Adam, torch.optim.AdamW):
        return Remedy(
            f"set model.optimizer bitsandbytes.optim.{kind.__name__}8bit, whose state takes a quarter, and "
            "begin anew"
        )
    batch, accumulated = getattr(data, "batch_size", 1), trainer.accumulate_grad_batches
    if batch > 1 and module.memory == "full":
        times = 2 if batch % 2 == 0 else batch
        options = {
            "data.batch_size": str(batch // times),
            "trainer.accumulate_grad_batches": str(accumulated * times),
        }
        said = " and ".join(f"{name} {value}" for name, value in options.items())
        return Remedy(f"set {said}: the same photos in every step", options)
    if batch > 1:
        return Remedy(f"set data.batch_size {batch // 2}")
    if module.device.type == "cuda" and str(trainer.precision).startswith("32"):
        return Remedy("set trainer.precision 16-mixed, and then model.memory split")
    side = getattr(data, "side", None)
    return Remedy(f"lower data.resolution, which is {side}") if side else None


def more_room(module: Any, full: Exhausted) -> Remedy | None:
    """What leaves more of a GPU to something that is done beside the training.

    Args:
        module: What is trained.
        full: The memory that is full.

    Returns:
        None where nothing is trained now, or it cannot take less.
    """
    mode = next_mode(module) if full.memory == GPU and module.trainer.state.fn == "fit" else None
    if mode is None:
        return None
    return Remedy(f"set model.memory {mode}, which trains the same in less", {"model.memory": mode})


def less_for_a_grid(module: Any, full: Exhausted, sampling: Sampling) -> Remedy:
    """What makes a picture of a seed grid need less memory, where one at a time does not fit.

    Args:
        module: What is trained.
        full: The memory that is full.
        sampling: How the grid is sampled.
    """
    if (room := more_room(module, full)) is not None:
        return room
    side = module.resolution
    size = f"{sampling.width or side}x{sampling.height or side}"
    return Remedy(f"lower seed_grid.width and seed_grid.height, which are {size}")
