"""Building a network whose sizes a file names: refused where it takes far more memory than the file's."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ALLOWANCE = 2**30
_FACTOR = 4


class TooLargeError(Exception):
    """A network would take far more memory than its weights."""


class AllocationLimit(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's have no types
    """Within it, tensors are made up to a total in proportion to the weights that a file holds.

    Architectures deduce their sizes from shapes and the lengths of lists from names, so that a few bytes of
    a file that lies would ask for all memory. New tensors are counted before they are filled, which is what
    takes the memory. Four times the weights in float32, and a GiB, are for what is not stored, such as masks.

    Args:
        weights: The weights of the file.

    Raises:
        TooLargeError: It would be more.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = _ALLOWANCE + _FACTOR * sum(4 * tensor.numel() for tensor in weights.values())

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            size = made.untyped_storage().nbytes()
            if size > self._left:
                raise TooLargeError("it would take far more memory than the file's weights")
            if not any(isinstance(value, Tensor) for value in args):  # made of nothing, as parameters are
                self._left -= size
        return made
