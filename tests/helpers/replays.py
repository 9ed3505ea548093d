"""A step's graph where there is none: the step is run again, into the gradients of the recorded one."""

from collections.abc import Callable
from typing import Any

from torch import nn


def run_again(
    module: nn.Module,
    graph: Any,
    step: Callable[[], None],
    free: Callable[[], None],
    seen: Callable[[], object] = bool,
) -> Callable[[], None]:
    """Run a step, as a capture does, and give what runs it again as a replay would.

    Args:
        module: What gets gradients.
        graph: The step's graph, whose loss stays one tensor.
        step: Forward and backward.
        free: Lets go of the gradients.
        seen: Called at each replay.
    """
    step()
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    kept, loss = [parameter.grad for parameter in parameters], graph._loss

    def replay() -> None:
        seen()
        free()
        step()
        for own, parameter in zip(kept, parameters, strict=True):
            own.copy_(parameter.grad)
        loss.copy_(graph._loss)
        graph._loss = loss
        free()

    return replay
