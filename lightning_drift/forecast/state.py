"""What a checkpoint takes on disk, before there is an optimizer."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """The tensors in nested mappings and lists."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for value in nested.values():
            yield from tensors_in(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from tensors_in(value)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages of tensors, on whatever device."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def state_bytes(
    kind: type[Optimizer], arguments: Mapping[str, Any], parameters: Iterable[Tensor]
) -> int | None:
    """Bytes of an optimizer's state over parameters: one of each shape is updated once, on the meta device.

    Args:
        kind: The optimizer's class.
        arguments: Further arguments of the class.
        parameters: What it updates.

    Returns:
        None for an optimizer that looks at numbers, which a tensor without any has not.
    """
    shapes = Counter(tuple(parameter.shape) for parameter in parameters)
    total = 0
    try:
        for shape, count in shapes.items():
            stand_in = nn.Parameter(torch.empty(shape, device="meta"))
            optimizer = kind([stand_in], **arguments)
            stand_in.grad = torch.empty(shape, device="meta")
            optimizer.step()
            total += count * storage_bytes(tensors_in(optimizer.state))
    except Exception:  # whatever the class raises: it is made again, and its error told, when it is needed
        return None
    return total
