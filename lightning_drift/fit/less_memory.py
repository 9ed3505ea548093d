"""What a fit that has run out of memory can do with less, in the order in which to take it."""

from typing import Any, get_args, get_type_hints

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.out_of_memory import Remedy
from lightning_drift.fit.split_optimizer import check_split
from lightning_drift.stable_diffusion.sampling import Sampling


def next_mode(module: Any) -> str | None:
    """The next smaller ``model.memory`` that this fit can take; None if there is none, or it may not.

    Args:
        module: What is trained.
    """
    modes = get_args(get_type_hints(type(module).__init__).get("memory"))
    later = modes[modes.index(module.memory) + 1 :] if getattr(module, "memory", None) in modes else ()
    if not later:
        return None
    try:
        check_split(module.optimizer, module.trainer, module.loss_scaler)
    except UserError:
        return None
    return str(later[0])


def less_for_a_step(module: Any, updating: bool = False) -> Remedy | None:
    """What makes a training step need less memory; what computes the same comes first.

    Args:
        module: What is trained.
        updating: It was the optimizer's update that found too little.
    """
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


def less_for_a_grid(module: Any, fitting: bool, sampling: Sampling) -> Remedy:
    """What makes a picture of a seed grid need less memory, where one at a time does not fit.

    Args:
        module: What is trained.
        fitting: It is trained at the moment.
        sampling: How the grid is sampled.
    """
    mode = next_mode(module) if fitting else None
    if mode is not None:
        return Remedy(
            f"set model.memory {mode}, which leaves more to the grid and trains the same",
            {"model.memory": mode},
        )
    side = module.resolution
    size = f"{sampling.width or side}x{sampling.height or side}"
    return Remedy(f"lower seed_grid.width and seed_grid.height, which are {size}")
