"""Activations that are made again in the backward pass, where that costs little."""

from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_PRODUCTS = (
    "convolution",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math",
)
_KEPT = {getattr(torch.ops.aten, name).default for name in _PRODUCTS if hasattr(torch.ops.aten, name)}


def recompute_activations(unet: UNet2DConditionModel) -> None:
    """Keep only what convolutions, matrix products and attention give; make all else again.

    Under mixed precision norms and activation functions keep each of their inputs and outputs in float32;
    between two products that is most of what a block keeps, and a hundredth of its arithmetic. The graph and
    its bits are the same (selective activation checkpointing of `torch.utils.checkpoint`).
    """
    unet.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, context_fn=_contexts))


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operation in _KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
