"""The optimizer of a fit: one group of parameters for each trained module, with this run's settings."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_drift.common.errors import UserError


def make_optimizer(
    kind: type[Optimizer],
    parameters: Mapping[str, Iterable[nn.Parameter]],
    rates: Mapping[str, float],
    arguments: Mapping[str, Any],
) -> Optimizer:
    """An optimizer with one group of parameters per module, in their order.

    Args:
        kind: The optimizer's class.
        parameters: The trained parameters of each module, by the module's name.
        rates: Learning rates by the same names.
        arguments: Further arguments of the class.

    Raises:
        UserError: The class does not take the arguments.
    """
    groups = [{"params": [*group], "lr": rates[name]} for name, group in parameters.items()]
    try:
        return kind(groups, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind.__name__} refuses them: {error}", "model.optimizer_args") from error


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of each parameter group, such as learning rate and weight decay."""
    return [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]


def set_groups(optimizer: Optimizer, settings: list[dict[str, Any]]) -> None:
    """Give the parameter groups these settings, which a checkpoint's optimizer state has overwritten."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
