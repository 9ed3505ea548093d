"""A float32 weight in two halves: what autocast computes with, and a remainder that gives the weight back."""

import torch
from torch import Tensor, nn

from lightning_drift.common.errors import UserError

EXACT_FROM = 2.0**-16
"""Weights of at least this size come back bit for bit; smaller ones to within 2**-40, 9.1e-13."""

LARGEST = 65504.0
"""The largest weight that float16 holds; a larger one cannot be split."""

SMALL = 4096
"""Weights of fewer numbers stay in float32; 8-bit optimizers keep full states for them too."""

_REMAINDER = "split_remainder"


def split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split float32 weights.

    The first half is the weight rounded to float16, to nearest even: bit for bit what autocast hands to a
    convolution or a matrix product. The second counts what is missing in units of ``2**(e - 25)``, where
    ``e`` is the exponent of the first half and at least -14; it lies in [-16384, 16384].

    Args:
        weight: float32, any shape, no larger than 65504 (`LARGEST`).

    Returns:
        The weight in float16 and its remainder in int16, both of the weight's shape. A weight that float16
        does not hold becomes infinite.
    """
    half = weight.half()
    return half, _missing(weight, half).to(torch.int16)


def _missing(weight: Tensor, half: Tensor) -> Tensor:
    """What float16 lacks of a weight, in its units."""
    wide = half.float()
    # Both the difference and its division by a power of two are exact in float32.
    return weight.sub(wide).div_(_unit_(wide)).round_()


def join(half: Tensor, remainder: Tensor) -> Tensor:
    """The float32 weights that `split` was given."""
    wide = half.float()
    return wide.add_(_unit_(wide.clone()).mul_(remainder))  # the product is exact


def _unit_(wide: Tensor) -> Tensor:
    """``2**(e - 25)`` in place of float16 values given in float32, from the bits of their exponents."""
    wide.view(torch.int32).bitwise_and_(0x7F800000)
    return wide.clamp_(min=2.0**-14).mul_(2.0**-25)


def split_parameters_(module: nn.Module) -> None:
    """Keep the large weights of a module's linear and convolution layers in two halves from now on.

    A parameter's data is then the float16 half, and its remainder an attribute of it. The module's state dict
    still holds float32, and weights that are loaded into it are split. Other parameters (norms, embeddings,
    biases, small weights) are not touched: autocast computes with them in float32, or they take no room.

    Raises:
        UserError: A weight is larger than float16 holds; the message names it.
    """
    for prefix, layer in module.named_modules():
        if (
            isinstance(layer, nn.Linear | nn.Conv2d)
            and layer.weight.numel() >= SMALL
            and not is_split(layer.weight)
        ):
            half, remainder = split(layer.weight.detach())
            if not (half.is_meta or torch.isfinite(half).all()):
                raise UserError(
                    f"{prefix}.weight holds a number above {LARGEST:g}, which float16 does not hold"
                )
            layer.weight.data = half
            setattr(layer.weight, _REMAINDER, remainder)
    module.register_state_dict_post_hook(_join_state)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(_split_state)  # type: ignore[no-untyped-call]


def is_split(parameter: Tensor) -> bool:
    """Whether a parameter is kept in halves."""
    return hasattr(parameter, _REMAINDER)


def full_weight(parameter: Tensor) -> Tensor:
    """The float32 numbers of a parameter: itself, or its halves joined into a new tensor."""
    remainder = getattr(parameter, _REMAINDER, None)
    if remainder is None:
        return parameter.detach()
    return join(parameter.detach(), remainder.to(parameter.device))


@torch.no_grad()
def set_weight_(parameter: Tensor, value: Tensor) -> None:
    """Give a parameter other numbers, whether it is kept in halves or not."""
    remainder = getattr(parameter, _REMAINDER, None)
    if remainder is None:
        parameter.copy_(value)
        return
    value = value.to(parameter.device, torch.float32)
    parameter.copy_(value)  # rounds as `split` does
    remainder.copy_(_missing(value, parameter.detach()))


def _join_state(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    for name, parameter in module.named_parameters():
        if is_split(parameter):
            # On the CPU: a save must not need a second model on the device.
            state[prefix + name] = full_weight(parameter).cpu()


def _split_state(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Set the remainders; the module's own loading then rounds the weights to their first halves."""
    for name, parameter in module.named_parameters():
        if is_split(parameter) and prefix + name in state:
            getattr(parameter, _REMAINDER).copy_(split(state[prefix + name].float())[1])
