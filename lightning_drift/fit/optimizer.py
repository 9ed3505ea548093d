"""The optimizer of a fit: one group of parameters for each trained module, with this run's settings."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_drift.common.errors import UserError
from lightning_drift.fit.cpu_update import on_cpu

_CAN_BE_FUSED = (torch.optim.Adam, torch.optim.AdamW)
_WAYS = {"foreach", "fused", "capturable", "differentiable"}
"""Arguments that say how an update is computed."""


def make_optimizer(
    kind: type[Optimizer],
    parameters: Mapping[str, Iterable[nn.Parameter]],
    rates: Mapping[str, float],
    arguments: Mapping[str, Any],
    scaled: bool = False,
) -> Optimizer:
    """An optimizer with one group of parameters per module, in their order.

    On a CPU it is the quickest of its kind: bitsandbytes' Adam as `fit/cpu_update` takes its steps, and
    PyTorch's fused Adam where no argument asks for another.

    Args:
        kind: The optimizer's class.
        parameters: The trained parameters of each module, by the module's name.
        rates: Learning rates by the same names.
        arguments: Further arguments of the class.
        scaled: Whether a loss scaler is to take its scale off the gradients; a fused Adam would do so itself,
            after they were clipped.

    Raises:
        UserError: The class does not take the arguments, or would take off the loss scale itself.
    """
    if scaled and arguments.get("fused"):
        raise UserError(
            "fused takes the loss scale off the gradients after they are clipped; leave it out, or set "
            "trainer.precision bf16-mixed or 32-true",
            "model.optimizer_args",
        )
    weights = {name: [*group] for name, group in parameters.items()}
    groups = [{"params": group, "lr": rates[name]} for name, group in weights.items()]
    _check_finite(arguments)
    make = kind
    if all(weight.device.type == "cpu" for group in weights.values() for weight in group):
        make = on_cpu(kind)
        if kind in _CAN_BE_FUSED and not scaled and not _WAYS & arguments.keys():
            arguments = {**arguments, "fused": True}
    try:
        return make(groups, **arguments)
    # An optimizer looks at its arguments as it likes, or only uses them.
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{kind.__name__} refuses them: {reason}", "model.optimizer_args") from error


def _check_finite(arguments: Mapping[str, Any]) -> None:
    """Refuse numbers that optimizers do not look at and that would make weights of nothing."""
    for name, value in arguments.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name} is {number}; give a finite number", "model.optimizer_args")


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of each parameter group, such as learning rate and weight decay."""
    return [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]


def set_groups(optimizer: Optimizer, settings: list[dict[str, Any]]) -> None:
    """Give the parameter groups these settings, which a checkpoint's optimizer state has overwritten."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
