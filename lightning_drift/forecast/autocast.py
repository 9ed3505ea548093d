"""CUDA's autocast for tensors of any device: which operations take their inputs in which precision."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

# The lists of PyTorch 2.13 (aten/src/ATen/autocast_mode.h), as far as Stable Diffusion calls them.
_LOW = {
    *(F.linear, F.conv1d, F.conv2d, torch.conv2d, F.scaled_dot_product_attention, torch.einsum),
    *(torch.matmul, torch.bmm, torch.mm, torch.addmm, torch.baddbmm, torch.addbmm),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm),
}
_HIGH = {
    *(
        F.layer_norm,
        F.group_norm,
        torch.group_norm,
        torch.layer_norm,
        F.softmax,
        torch.softmax,
        Tensor.softmax,
    ),
    *(F.mse_loss, torch.exp, Tensor.exp, torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt),
    *(torch.sum, Tensor.sum, torch.cumsum, Tensor.cumsum, torch.norm, Tensor.norm),
}


class CudaAutocast(TorchFunctionMode):
    """Replays ``torch.autocast("cuda", float16)``, its cache of cast weights included.

    It acts while the CPU's own autocast is on. That does nothing to tensors of the meta device; but it is
    turned on and off by PyTorch's own means, such as a checkpoint that computes its forward again.

    Args:
        attention: Whose attention is taken: "cuda", "cpu", or "math" for the one that is made of products.
    """

    def __init__(self, attention: str = "cuda") -> None:
        super().__init__()
        self.attention = attention
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def dtype(self) -> torch.dtype | None:
        """What is cast to now; None where autocast is off."""
        if torch.is_autocast_enabled("cpu"):
            return torch.get_autocast_dtype("cpu")
        self._cache.clear()
        return None

    def forget(self) -> None:
        """Drop the cast weights if autocast was turned off since."""
        _ = self.dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function with its inputs cast."""
        kwargs = kwargs or {}
        dtype = self.dtype
        if dtype is not None and func in _LOW:
            args, kwargs = tree_map_only(Tensor, lambda x: self._lower(x, dtype), (args, kwargs))
        elif dtype is not None and func in _HIGH:
            args, kwargs = tree_map_only(Tensor, _raise, (args, kwargs))
        if func is F.scaled_dot_product_attention and self.attention != "math":
            return _attention(self.attention, *args, **kwargs)
        return func(*args, **kwargs)

    def _lower(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if not x.is_floating_point() or x.dtype == dtype:
            return x
        if not (
            x.is_leaf and x.requires_grad and x.dtype == torch.float32 and torch.is_autocast_cache_enabled()
        ):
            return x.to(dtype)
        if id(x) not in self._cache:
            self._cache[id(x)] = x, x.to(dtype)
        return self._cache[id(x)][1]


def _raise(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def _attention(
    kind: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """The fused kernel that PyTorch would choose on the device."""
    aten = torch.ops.aten
    if kind == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )[0]
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        return aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]
