"""Weights held as 8-bit integers and widened layer by layer as they are used.

Each output row of a weight has its own scale, as in LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339);
activations are not quantised. Halves the memory of a float16 network, and changes the picture a little.
"""

import torch
from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 4096
"""Weights with fewer elements, and those of layers that touch the latent itself, stay as they are."""
SPARED_CHANNELS = 8


class EightBitLayer(nn.Module):
    """A linear layer or convolution with its weight in 8 bits.

    Args:
        layer: The layer to replace, a `Linear` or `Conv2d`.
        device: Where to quantise; the result is on the layer's device.
    """

    quantised: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, device: torch.device) -> None:
        super().__init__()
        weight = layer.weight.detach()
        rows, scale, _ = int8_vectorwise_quant(weight.to(device).half().flatten(1).contiguous())
        self.register_buffer("quantised", rows.to(weight.device))
        self.register_buffer("scale", scale.to(weight.device))
        self.shape = weight.shape
        self.bias = layer.bias
        self.stride = layer.stride if isinstance(layer, nn.Conv2d) else None
        self.padding = layer.padding if isinstance(layer, nn.Conv2d) else 0

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weight widened to `dtype`."""
        widened: Tensor = int8_vectorwise_dequant(self.quantised, self.scale)
        return widened.to(dtype).view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer it replaces computes."""
        weight = self.weight(x.dtype)
        if self.stride is None:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def quantise(module: nn.Module, device: torch.device) -> tuple[float, float, str]:
    """Replace the large linear layers and convolutions of a module, one at a time.

    Args:
        module: Any module; changed in place.
        device: Where to quantise.

    Returns:
        The relative error of all replaced weights (2-norm), that of the worst layer, and its name.
    """
    spread, total = 0.0, 0.0
    worst, culprit = 0.0, ""
    layers = [(name, layer) for name, layer in module.named_modules() if _is_large(layer)]
    for name, layer in layers:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        replacement = EightBitLayer(layer, device)
        exact = layer.weight.detach().float()
        error = float((replacement.weight(torch.float32) - exact).square().sum())
        norm = float(exact.square().sum())
        spread, total = spread + error, total + norm
        if norm > 0 and (error / norm) ** 0.5 > worst:
            worst, culprit = (error / norm) ** 0.5, name
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, replacement)
    return (spread / total) ** 0.5 if total else 0.0, worst, culprit


def _is_large(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return (
            min(layer.in_channels, layer.out_channels) > SPARED_CHANNELS and layer.weight.numel() >= SMALLEST
        )
    return isinstance(layer, nn.Linear) and layer.weight.numel() >= SMALLEST
