"""How far weights have moved from the base model: ||W - W0|| / ||W0||, block by block, at almost no cost."""

import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

SAMPLES = 16_384


class WeightChange:
    """Remembers the base weights and measures the relative change against them.

    Only an evenly strided sample of at most 16,384 elements of each tensor is kept (SD v1.5: under 60 MB
    instead of 3.7 GiB); norms are scaled up by the fraction kept. Smaller tensors are measured exactly.

    Args:
        modules: Named modules, such as ``{"unet": unet, "text_encoder": text_encoder}``, holding the base
            weights.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._base = {name: _sample(tensor).clone() for name, tensor in _parameters(modules)}

    @torch.no_grad()
    def measure(self, modules: dict[str, nn.Module]) -> dict[str, float]:
        """Relative change of each block, and of each module as a whole.

        Args:
            modules: The same modules as at the start, trained since; on any device.

        Returns:
            ``{"unet": 0.02, "unet/down_blocks.0": 0.01, …}``: Frobenius norms over all tensors of a block, at
            least 0; a block with zero base weights is left out.
        """
        moved: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        size: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        for name, tensor in _parameters(modules):
            now = _sample(tensor)
            self._base[name] = base = self._base[name].to(now.device)
            weight = tensor.numel() / now.numel()
            squares = (
                weight * (now.float() - base.float()).square().sum(),
                weight * base.float().square().sum(),
            )
            for key in (name.partition(".")[0], block_of(name)):
                moved[key] = moved[key].to(now.device) + squares[0]
                size[key] = size[key].to(now.device) + squares[1]
        return {key: (moved[key] / size[key]).sqrt().item() for key in sorted(moved) if size[key] > 0}


def _parameters(modules: dict[str, nn.Module]) -> Iterable[tuple[str, Tensor]]:
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            yield f"{prefix}.{name}", parameter.detach()


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: -(-flat.numel() // SAMPLES)]


def block_of(name: str) -> str:
    """The block of a weight: ``unet.down_blocks.0.resnets.1.conv1.weight`` -> ``unet/down_blocks.0``."""
    module, _, rest = name.partition(".")
    rest = re.sub(r"^(text_model\.)?(encoder\.)?", "", rest)
    match = re.match(r"\w+\.\d+|\w+", rest)
    return f"{module}/{match[0] if match else rest}"
