"""One picture at several drifts: the model scaled down or up, or its base denoising beside it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from PIL import Image
from torch import nn

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.out_of_memory import sentence
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.stable_diffusion.drift_dial import Drift, check_parts, dial_title, read_drifts
from lightning_drift.stable_diffusion.interpolation import interpolating
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened, open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED
from lightning_drift.stable_diffusion.sampling_drift import (
    SamplingDrift,
    read_sampling_drifts,
    sampling_title,
)
from lightning_drift.stable_diffusion.with_base import WithBase, predictions

T = TypeVar("T")

DIAL, SAMPLING = "dial", "sampling"
"""What the two rows are called."""

MOST_VALUES = 100
"""Pictures in a row at most."""

Row = Mapping[str, Image.Image]
"""Pictures by what stands above them."""


Values = str | float | Iterable[float | str] | None
"""What an option for a row may hold; None for no row."""


class DriftRows:
    """The rows that a grid has.

    Args:
        dial: ``seed_grid.drift_dial``.
        sampling: ``seed_grid.sampling_drift``.
        taken: Names of the grid's groups.

    Attributes:
        dial: The drifts of the first row; empty for none.
        sampling: The sampling drifts of the second one; likewise.

    Raises:
        UserError: A value is refused, or a group has the name of a row.
    """

    def __init__(self, dial: Values, sampling: Values, taken: Iterable[str]) -> None:
        self.dial = _read(dial, read_drifts, "seed_grid.drift_dial")
        self.sampling = _read(sampling, read_sampling_drifts, "seed_grid.sampling_drift")
        rows = [name for name, values in ((DIAL, self.dial), (SAMPLING, self.sampling)) if values]
        if own := [name for name in taken if name in rows]:
            raise UserError(f"the name {own[0]} is that of a row of drifts; use another", "seed_grid.groups")

    def check(self, trains_text_encoder: bool) -> None:
        """Refuse a dial that turns a part which is not trained.

        Raises:
            UserError: One does.
        """
        for value in self.dial:
            check_parts(value, trains_text_encoder, "this run", "seed_grid.drift_dial")

    def wanted(
        self, pl_module: Any, base: StableDiffusion | None, picture: Callable[..., Image.Image]
    ) -> dict[str, Callable[[], Row]]:
        """What makes each row, by name; see `dial_row` and `sampling_row`.

        Args:
            pl_module: The ``DreamBooth`` module.
            base: Its base; None where that could not be loaded.
            picture: Makes the picture, given a title for its progress bar, and the base that denoises beside
                the model, if one does.
        """
        made: dict[str, Callable[[], Row]] = {}
        if self.dial:
            made[DIAL] = partial(dial_row, pl_module, self.dial, picture)
        if self.sampling and base is not None:
            made[SAMPLING] = partial(sampling_row, base, self.sampling, picture)
        return made

    def predictions(self, steps: int) -> int:
        """Guided predictions of all rows, of pictures with so many sampling steps."""
        beside = sum(predictions(value, steps, maps=False) for value in self.sampling)
        return steps * len(self.dial) + beside

    def __len__(self) -> int:
        """Pictures of all rows."""
        return len(self.dial) + len(self.sampling)

    def __str__(self) -> str:
        """What a plan says of them; empty for none."""
        told = [f" and {len(self.dial)} of the drift dial"] if self.dial else []
        return "".join([*told, f" and {len(self.sampling)} over sampling drifts"] if self.sampling else told)


def go_on_without(what: str, error: Exception) -> None:
    """Say what is left out of a grid and why.

    Raises:
        Exception: The given one, if it is a fault, and neither the user's nor of a full disk or memory.
    """
    full = sentence(error)
    if not full and not isinstance(error, UserError | OSError):
        raise error
    notice(f"cannot make {what}: {full or error}; the run goes on")


def _read(values: Values, read: Callable[[Any, str], list[T]], option: str) -> list[T]:
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
