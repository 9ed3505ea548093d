"""One picture at several drifts: the model scaled down or up, or its base denoising beside it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from PIL import Image
from torch import nn

from lightning_drift.common.errors import UserError
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.stable_diffusion.drift_dial import Drift, dial_title
from lightning_drift.stable_diffusion.interpolation import interpolating
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened, open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED
from lightning_drift.stable_diffusion.sampling_drift import SamplingDrift, sampling_title
from lightning_drift.stable_diffusion.with_base import WithBase

T = TypeVar("T")

DIAL, SAMPLING = "dial", "sampling"
"""What the two rows are called."""

MOST_VALUES = 100
"""Pictures in a row at most."""

Row = Mapping[str, Image.Image]
"""Pictures by what stands above them."""


def read_row(
    values: str | float | Iterable[float | str] | None, read: Callable[[Any, str], list[T]], option: str
) -> list[T]:
    """The values of a row; an empty list for None.

    Raises:
        UserError: ``read`` refuses them, or there are too many.
    """
    if values is None:
        return []
    drifts = read(values, option)
    if len(drifts) > MOST_VALUES:
        raise UserError(f"the list holds {len(drifts):,} numbers; give at most {MOST_VALUES}", option)
    return drifts


def row_sheet(row: Row, prompt: str, seed: int) -> Image.Image:
    """The row as a sheet with its drifts above."""
    return contact_sheet(
        [*row.values()], rows=[f"{prompt or '(empty prompt)'} (seed {seed})"], columns=[*row]
    )


def dial_row(pl_module: Any, values: Sequence[Drift], picture: Callable[[str], Image.Image]) -> Row:
    """A picture at each drift of a fit's model; afterwards its weights have their own bits again.

    Args:
        pl_module: The ``DreamBooth`` module; its base is read again from where it was loaded.
        values: Drifts.
        picture: Makes the picture, given a title for its progress bar.

    Raises:
        UserError: The base is no longer there.
    """
    model = pl_module.stable_diffusion
    base = open_pipeline(model.source, model.revision, pl_module.base).weights
    modules = {part: getattr(pl_module, part) for part in TRAINED}
    images = {}
    with interpolating(modules, base) as turn:
        for value in values:
            turn(value)
            title = f"drift {value:g}" if isinstance(value, float) else dial_title(value)
            images[title] = picture(title)
    return images


def sampling_row(
    base: StableDiffusion, values: Sequence[SamplingDrift], picture: Callable[[str, WithBase], Image.Image]
) -> Row:
    """A picture at each sampling drift of a fit's model.

    Args:
        base: The base, as `load_base` gives it.
        values: Sampling drifts.
        picture: Makes the picture, given a title for its progress bar.
    """
    titles = {f"sampling drift {sampling_title(value)}": value for value in values}
    return {title: picture(title, WithBase(base, value)) for title, value in titles.items()}


def load_base(pl_module: Any) -> StableDiffusion:
    """The base of a fit, read again from where it was loaded, on the module's device and in its precision.

    Raises:
        UserError: It is no longer there.
    """
    model: StableDiffusion = pl_module.stable_diffusion
    base = load_opened(open_pipeline(model.source, model.revision, pl_module.base))
    for part in TRAINED:
        _place_like(getattr(base, part), getattr(pl_module, part))
    return replace(model, unet=base.unet, text_encoder=base.text_encoder)


def _place_like(module: nn.Module, other: nn.Module) -> None:
    """Move a module to where another lies, each weight in the precision that it has there."""
    own = dict(other.named_parameters())
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(own[name].device, own[name].dtype)
    module.to(next(iter(own.values())).device)  # its buffers
