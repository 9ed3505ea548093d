"""Weight gradients that are made when they are wanted, where that takes less room than to hold them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_drift.weights.split_weights import is_split


class DeferredGradients:
    """Keeps, instead of a weight's gradient, the layer's input and the gradient of its output.

    A global norm needs every gradient before the first weight may be updated. At batch 1 the gradients of the
    deep layers are many times larger than the two tensors that they are a product of; so the product is made
    twice, for the norm and for the update, and never held. Its bits are those of the gradient that autograd
    makes.

    Args:
        ratio: A gradient is deferred if it has more than this many times the numbers of its layer's input and
            output together.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self._makers: dict[Tensor, list[Callable[[], Tensor]]] = {}

    def adopt(self, module: nn.Module) -> None:
        """Defer the gradients of a module's linear and convolution layers whose weights are split."""
        for layer in module.modules():
            if type(layer) is nn.Linear and is_split(layer.weight):
                layer.__class__ = _DeferredLinear
                layer.deferred = self  # type: ignore[assignment]
            elif (
                type(layer) is nn.Conv2d
                and is_split(layer.weight)
                and layer.padding_mode == "zeros"
                and not isinstance(layer.padding, str)
            ):
                layer.__class__ = _DeferredConv2d
                layer.deferred = self  # type: ignore[assignment]

    def take(self, weight: Tensor, make: Callable[[], Tensor], numbers: int) -> Tensor | None:
        """In a backward pass: the gradient if it is to be held, or None if it is deferred.

        Args:
            weight: The layer's weight.
            make: Makes the gradient, [weight's shape].
            numbers: How many numbers the layer's input and output have together.
        """
        if weight.numel() <= self.ratio * numbers:
            return make()
        self._makers.setdefault(weight, []).append(make)
        return None

    @torch.no_grad()
    def gradient(self, weight: Tensor) -> Tensor | None:
        """A deferred gradient, made now; None if the weight has none."""
        makers = self._makers.get(weight)
        if makers is None:
            return None
        first, *others = makers
        gradient = first()
        for make in others:  # a layer that was used more than once
            gradient = gradient.add_(make())
        return gradient

    def weights(self) -> Iterable[Tensor]:
        """The weights whose gradients are deferred at the moment."""
        return self._makers.keys()

    def clear(self) -> None:
        """Forget all gradients."""
        self._makers.clear()


class _DeferredLinear(nn.Linear):
    deferred: DeferredGradients

    def forward(self, input: Tensor) -> Tensor:
        if not _trains(self.weight):
            return super().forward(input)
        half = self.weight.dtype
        bias = None if self.bias is None else self.bias.to(half)
        output: Tensor = _Linear.apply(input.to(half), self.weight, bias, self.deferred)  # type: ignore[no-untyped-call]
        return output


class _DeferredConv2d(nn.Conv2d):
    deferred: DeferredGradients

    def forward(self, input: Tensor) -> Tensor:
        if not _trains(self.weight):
            return super().forward(input)
        half = self.weight.dtype
        bias = None if self.bias is None else self.bias.to(half)
        settings = (self.stride, self.padding, self.dilation, self.groups)
        output: Tensor = _Conv2d.apply(input.to(half), self.weight, bias, settings, self.deferred)  # type: ignore[no-untyped-call]
        return output


def _trains(weight: Tensor) -> bool:
    return torch.is_grad_enabled() and weight.requires_grad


class _Linear(torch.autograd.Function):
    """`torch.nn.functional.linear`, with autograd's own products."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, deferred: DeferredGradients
    ) -> Tensor:
        ctx.save_for_backward(input)
        ctx.weight, ctx.deferred = (
            weight,
            deferred,
        )  # the parameter itself, which checkpointing would not give back
        return F.linear(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (input,), weight = ctx.saved_tensors, ctx.weight
        rows = input.reshape(-1, input.shape[-1])
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        before = gradient.mm(weight).view(input.shape) if ctx.needs_input_grad[0] else None
        bias = gradient.sum(0) if ctx.needs_input_grad[2] else None
        numbers = rows.numel() + gradient.numel()
        return before, ctx.deferred.take(weight, lambda: gradient.t().mm(rows), numbers), bias, None


class _Conv2d(torch.autograd.Function):
    """`torch.nn.functional.conv2d`, with autograd's own products."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: tuple[Any, Any, Any, int],
        deferred: DeferredGradients,
    ) -> Tensor:
        ctx.save_for_backward(input)
        ctx.weight, ctx.settings, ctx.deferred = weight, settings, deferred
        return F.conv2d(input, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (input,), weight = ctx.saved_tensors, ctx.weight
        gradient = gradients[0]
        stride, padding, dilation, groups = ctx.settings
        bias_size = [weight.shape[0]] if ctx.needs_input_grad[2] else None

        def products(*wanted: bool) -> list[Tensor]:
            made: list[Tensor] = torch.ops.aten.convolution_backward(
                gradient, input, weight, bias_size, stride, padding, dilation, False, [0, 0], groups, wanted
            )
            return made

        before, _, bias = products(ctx.needs_input_grad[0], False, ctx.needs_input_grad[2])
        numbers = input.numel() + gradient.numel()
        held = ctx.deferred.take(weight, lambda: products(False, True, False)[1], numbers)
        return before, held, bias, None, None
