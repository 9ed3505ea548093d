"""What two checkpoints hold, compared bit by bit."""

from typing import Any

import torch


def tensors(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a nested structure, by path."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {
        key: tensor for name, child in items for key, tensor in tensors(child, f"{prefix}/{name}").items()
    }


def assert_same_bits(left: dict[str, Any], right: dict[str, Any]) -> None:
    for part in ("state_dict", "optimizer_states"):
        ours, theirs = tensors(left[part]), tensors(right[part])
        assert ours.keys() == theirs.keys()
        assert len(ours) > 200
        different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        assert different == []
