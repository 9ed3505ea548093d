"""The drift dial: models on the line from the base through the fine-tune, W(a) = W0 + a (W - W0).

Between two fine-tunes of one model the weights can be interpolated and extrapolated (task arithmetic: Ilharco
et al. 2023, eq. 1, with one task vector W - W0; along the line to the base itself it is WiSE-FT: Wortsman et
al. 2022, eq. 1). 0 is the base model, 1 the fine-tune, and beyond 1 the drift goes on the way it went.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import listed
from lightning_drift.stable_diffusion.loading import open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline
from lightning_drift.weights.files import Weights

MOST = 1.5


def check_drift(value: float, option: str) -> float:
    """The value, if it is one that the dial has: 0 to 1.5.

    Raises:
        UserError: It is not; the sentence begins with the option's name.
    """
    if not 0 <= value <= MOST:
        raise UserError(
            f"{value:g} is out of range; give 0 (the base) to {MOST}, 1 is the model as trained", option
        )
    return value


def base_of(parts: OpenedPipeline, base: str | None = None) -> OpenedPipeline:
    """Find and open the pipeline that a model was fine-tuned from.

    Args:
        parts: The fine-tune: a checkpoint of a fit, a delta, a LoRA, or any other model.
        base: The base, where the fine-tune does not say or it no longer lies there.

    Raises:
        UserError: The base is not known, cannot be opened, or is of another shape.
    """
    found = parts.base or _find_base(parts, base)
    for part in TRAINED:
        mine, its = parts.weights[part].shapes, found.weights[part].shapes
        wrong = [name for name in mine if _size(mine[name]) != _size(its.get(name, (0,)))]
        if wrong or mine.keys() != its.keys():
            raise UserError(
                f"{found.source} cannot be the base of {parts.source}: the {part.replace('_', ' ')} differs "
                f"in {listed(wrong or sorted(mine.keys() ^ its.keys()))}; name the right one with base"
            )
    return found


def _find_base(parts: OpenedPipeline, base: str | None) -> OpenedPipeline:
    recipe = parts.recipe or {}
    name = base or recipe.get("base")
    if not name:
        raise UserError(
            f"{parts.source} does not say which model it was fine-tuned from, and drift is measured from "
            "there; name that model with base"
        )
    try:
        return open_pipeline(name, None if base else recipe.get("base_revision"))
    except UserError as error:
        raise UserError(
            f"{parts.source} was fine-tuned from {name}, from where drift is measured, but that cannot be "
            f"loaded: {error}. If it lies elsewhere, name it with base"
        ) from error


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def interpolated(parts: OpenedPipeline, base: OpenedPipeline, drift: float) -> OpenedPipeline:
    """The pipeline with its drift turned to a value; nothing is read before it is asked for.

    Args:
        parts: The fine-tune.
        base: What it was fine-tuned from; see ``base_of``.
        drift: The a in W(a) = W0 + a (W - W0), over UNet and text encoder; 0 gives the base's bits, 1 the
            fine-tune's. Autoencoder, tokenizer and schedule are the fine-tune's own.

    Returns:
        The same pipeline with weights that are computed in float32 when they are read, one tensor at a time.
        Its recipe says the drift, which multiplies one that was dialled before.
    """
    if drift == 1:
        return parts
    recipe = dict(parts.recipe or {"base": base.source})
    recipe["drift"] = round(drift * recipe.get("drift", 1.0), 6)
    blends = {part: lerped(base.weights[part], parts.weights[part], drift) for part in TRAINED}
    return replace(parts, weights={**parts.weights, **blends}, recipe=recipe)


def lerped(base: Weights, tuned: Weights, drift: float) -> Weights:
    """Weights of which each is read as ``lerp`` of the two."""
    return replace(tuned, read=lambda name: lerp(base.read(name), tuned.read(name), drift))


def lerp(base: Tensor, tuned: Tensor, drift: float) -> Tensor:
    """One tensor of W(a), in float32; at 0 and 1 the bits are the base's and the fine-tune's.

    >>> lerp(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0]), 1.5)
    tensor([2.5000, 2.0000])
    """
    if drift in (0, 1):
        return (tuned if drift else base).float().reshape(tuned.shape)
    return torch.lerp(base.float().reshape(tuned.shape), tuned.float(), drift)


@torch.no_grad()
def load_weights_(modules: Mapping[str, nn.Module], weights: Mapping[str, Weights]) -> None:
    """Give running modules other weights, in place, tensor by tensor; on their own device and precision.

    Args:
        modules: Modules by part, such as ``{"unet": unet, "text_encoder": text_encoder}``.
        weights: Their new weights by part, such as those of ``interpolated``.

    Raises:
        UserError: A weight cannot be read or does not fit; those before it are changed already.
    """
    for part, module in modules.items():
        for name, tensor in module.state_dict().items():
            try:
                tensor.copy_(weights[part].read(name).reshape(tensor.shape))
            except (SafetensorError, OSError, RuntimeError, KeyError) as error:
                raise UserError(f"{weights[part].origin}: {name} cannot be read ({error})") from error


@contextmanager
def interpolating(
    modules: Mapping[str, nn.Module], base: Mapping[str, Weights]
) -> Iterator[Callable[[float], None]]:
    """Turn the drift of modules that are being trained; afterwards each weight has its own bits again.

    The weights are kept on the CPU meanwhile (SD v1.5: 3.7 GiB in float32); the device holds one model and
    one tensor more. No generator is used.

    Args:
        modules: Modules by part.
        base: The base's weights by part, read from disk one tensor at a time.

    Yields:
        A function that turns the modules to a drift.
    """
    kept = {part: _kept(part, module) for part, module in modules.items()}
    try:
        yield lambda drift: load_weights_(modules, {p: lerped(base[p], kept[p], drift) for p in modules})
    finally:
        load_weights_(modules, kept)


def _kept(part: str, module: nn.Module) -> Weights:
    """A copy of a module's weights on the CPU."""
    state = {name: tensor.to("cpu", copy=True) for name, tensor in module.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Weights(part, shapes, state.__getitem__, (), {})
