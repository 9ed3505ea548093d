"""How far weights have moved from the base model: ||W - W0|| / ||W0||, block by block, at almost no cost."""

import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_drift.common.rng import generator
from lightning_drift.weights.split_weights import full_weight

SAMPLES = 16_384


class WeightChange:
    """Remembers a sample of the base weights and measures the relative change against it.

    Of each tensor at most 16,384 elements are kept (SD v1.5: under 60 MB instead of 3.7 GiB); smaller tensors
    are measured exactly. Which elements these are follows from the tensor's name and size alone, so that a
    resumed fit measures the same numbers. `sample_index` says how they are drawn.

    Args:
        modules: Named modules, such as ``{"unet": unet, "text_encoder": text_encoder}``, holding the base
            weights.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._base = {name: _sample(name, tensor) for name, tensor in _parameters(modules)}

    @torch.no_grad()
    def measure(self, modules: dict[str, nn.Module]) -> dict[str, float]:
        """Relative change of each block, and of each module as a whole.

        Args:
            modules: The same modules as at the start, trained since; on any device.

        Returns:
            ``{"unet": 0.02, "unet/down_blocks.0": 0.01, …}``: Frobenius norms over all tensors of a block, at
            least 0; a block with zero base weights is left out. The squared norms are unbiased estimates.
        """
        moved: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        size: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        for name, tensor in _parameters(modules):
            now = _sample(name, tensor)
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


def sample_index(name: str, count: int) -> Tensor:
    """Which elements of a flattened tensor of more than 16,384 elements are measured.

    One element is drawn from each of 16,384 equally long stretches, uniformly and independently (stratified
    sampling; W. Cochran, "Sampling Techniques", 1977, chapter 5). So each element has the same chance,
    whatever the tensor's shape. A fixed stride has not: a stride that is a multiple of 9 reads only one
    position of all 3x3 kernels.

    Args:
        name: The tensor's name, from which the draws follow.
        count: Its number of elements.

    Returns:
        Ascending indices in [0, count), int64 on the CPU, shape (16384,).
    """
    places = torch.rand(SAMPLES, generator=generator(0, "weight change", name), dtype=torch.float64)
    return ((torch.arange(SAMPLES) + places) * (count / SAMPLES)).long().clamp(max=count - 1)


def _parameters(modules: dict[str, nn.Module]) -> Iterable[tuple[str, Tensor]]:
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            yield f"{prefix}.{name}", full_weight(parameter)


def _sample(name: str, tensor: Tensor) -> Tensor:
    """A copy of the elements that are measured."""
    flat = tensor.reshape(-1)
    if flat.numel() <= SAMPLES:
        return flat.clone()
    return flat[sample_index(name, flat.numel()).to(flat.device)]


def block_of(name: str) -> str:
    """The block of a weight: ``unet.down_blocks.0.resnets.1.conv1.weight`` -> ``unet/down_blocks.0``."""
    module, _, rest = name.partition(".")
    rest = re.sub(r"^(text_model\.)?(encoder\.)?", "", rest)
    match = re.match(r"\w+\.\d+|\w+", rest)
    return f"{module}/{match[0] if match else rest}"
