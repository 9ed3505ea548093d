"""Models on the line from a base W0 through its fine-tune W: W(a) = W0 + a (W - W0), where a is the drift.

0 is the base, 1 the fine-tune, and above 1 the weights go on in the same direction. UNet and text encoder may
have drifts of their own. Between 0 and 1 this is
WiSE-FT (Wortsman et al. 2022, eq. 1); beyond, it is task arithmetic with the one task vector W - W0 (Ilharco
et al. 2023, eq. 1).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import listed
from lightning_drift.stable_diffusion.drift_dial import (
    Drift,
    check_parts,
    from_recipe,
    in_part,
    product,
    recorded,
)
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened, open_base
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline
from lightning_drift.weights.files import Weights
from lightning_drift.weights.split_weights import set_weight_


def base_of(opened: OpenedPipeline, base: str | None = None) -> OpenedPipeline:
    """Find and open the pipeline that a model was fine-tuned from.

    Args:
        opened: The fine-tune: a checkpoint of a fit, a delta, a LoRA, or any other model.
        base: What loads the base, if the fine-tune does not say or the base no longer lies there.

    Raises:
        UserError: The base is not known, cannot be opened, or is of another shape.
    """
    origin = opened.base or _recorded_base(opened, base)
    for part in TRAINED:
        shapes, base_shapes = opened.weights[part].shapes, origin.weights[part].shapes
        wrong = [name for name in shapes if _size(shapes[name]) != _size(base_shapes.get(name, (0,)))]
        if wrong or shapes.keys() != base_shapes.keys():
            raise UserError(
                f"{origin.source} cannot be the base of {opened.source}: the {part.replace('_', ' ')} "
                f"differs in {listed(wrong or sorted(shapes.keys() ^ base_shapes.keys()))}; name the right "
                "one with base"
            )
    return origin


def _recorded_base(opened: OpenedPipeline, base: str | None) -> OpenedPipeline:
    recipe = opened.recipe or {}
    name = base or recipe.get("base")
    if not name:
        raise UserError(
            f"{opened.source} does not say which model it was fine-tuned from, and drift is measured from "
            "there; name that model with base"
        )
    revision = None if base else recipe.get("base_revision")
    return open_base(opened.source, name, revision, "from where drift is measured")


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def refuse_untrained(opened: OpenedPipeline, drift: Drift, option: str) -> None:
    """Refuse a drift for a part that a fine-tune's fit did not train, as far as its recipe tells.

    Raises:
        UserError: It has one of its own.
    """
    trained = (opened.recipe or {}).get("train_text_encoder")
    check_parts(drift, trained is not False, opened.source, option)


def interpolated(opened: OpenedPipeline, base: OpenedPipeline, drift: Drift) -> OpenedPipeline:
    """A fine-tune at another drift.

    Args:
        opened: The fine-tune.
        base: What it was fine-tuned from; see ``base_of``.
        drift: The a in W(a) = W0 + a (W - W0), for UNet and text encoder or for each; 0 gives a part the
            base's bits, 1 the fine-tune's. Autoencoder, tokenizer and schedule are the fine-tune's own.

    Returns:
        The same pipeline with weights that are computed in float32 when they are read, one tensor at a time.
        Its recipe holds the drift; if it held one already, their product.
    """
    if drift == 1:
        return opened
    recipe = dict(opened.recipe or {"base": base.source})
    recipe["drift"] = recorded(product(drift, from_recipe(recipe.get("drift", 1.0))))
    weights = {
        part: lerped(base.weights[part], opened.weights[part], in_part(drift, part)) for part in TRAINED
    }
    return replace(opened, weights={**opened.weights, **weights}, recipe=recipe)


def load_base_beside(model: StableDiffusion, opened: OpenedPipeline, base: OpenedPipeline) -> StableDiffusion:
    """A base that denoises beside its fine-tune: its UNet and text encoder, on the CPU and in float32.

    Args:
        model: The fine-tune, loaded. Autoencoder, tokenizer and noise schedule are its own.
        opened: The fine-tune, as it was opened.
        base: Its base; see ``base_of``.
    """
    parts = load_opened(interpolated(opened, base, 0.0))
    return replace(model, unet=parts.unet, text_encoder=parts.text_encoder)


def lerped(base: Weights, tuned: Weights, drift: float) -> Weights:
    """Weights that are read as the ``lerp`` of two models' weights; at 0 and 1 only one model is read."""

    def read(name: str) -> Tensor:
        if drift in (0, 1):
            return (tuned if drift else base).read(name).float().reshape(tuned.shapes[name])
        return lerp(base.read(name), tuned.read(name), drift)

    return replace(tuned, stored=read)


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
    """Copy other weights into modules, tensor by tensor; the modules keep their device and precision.

    Args:
        modules: Modules by part, such as ``{"unet": unet, "text_encoder": text_encoder}``.
        weights: Their new weights by part, such as those of ``interpolated``.

    Raises:
        UserError: A weight cannot be read or is not finite; the weights before it have changed already.
    """
    for part, module in modules.items():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name in weights[part].shapes:  # no model file holds some buffers
                set_weight_(tensor, weights[part].read(name).reshape(tensor.shape))


@contextmanager
def interpolating(
    modules: Mapping[str, nn.Module], base: Mapping[str, Weights]
) -> Iterator[Callable[[Drift], None]]:
    """Give modules that are being trained another drift for a while; then each weight has its own bits again.

    Meanwhile their own weights lie on the CPU (SD v1.5: 3.7 GiB in float32), and the device holds one model
    and one tensor more. No generator is used.

    Args:
        modules: Modules by part.
        base: The base's weights by part, read from disk one tensor at a time.

    Yields:
        A function that gives the modules their weights at a drift.
    """
    own = {part: _copy(part, module) for part, module in modules.items()}
    try:
        yield lambda drift: load_weights_(
            modules, {p: lerped(base[p], own[p], in_part(drift, p)) for p in modules}
        )
    finally:
        # Whatever they hold: what was there before is what must be there after.
        load_weights_(modules, {part: replace(weights, checked=False) for part, weights in own.items()})


def _copy(part: str, module: nn.Module) -> Weights:
    """A copy of a module's weights on the CPU."""
    state = {name: tensor.to("cpu", copy=True) for name, tensor in module.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Weights(part, shapes, state.__getitem__, (), {})
