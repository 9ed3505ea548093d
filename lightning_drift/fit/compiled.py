"""``torch.compile``, whose failures become a sentence."""

from collections.abc import Callable
from typing import Any

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import reason


def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A network's forward, compiled when it is first called.

    Args:
        forward: A bound method, so that the compiled one is no module and enters no state dict.

    Raises:
        UserError: When it is called: it cannot be compiled here.
    """
    made = torch.compile(forward)

    def run(*args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return made(*args, **kwargs)
        except TorchDynamoException as error:  # of Inductor too
            raise UserError(
                f"the UNet cannot be compiled here ({reason(error)}); install a C++ compiler that PyTorch "
                "finds, or leave torch_compile false",
                "model.torch_compile",
            ) from error

    return run
