"""One picture at several drifts: the change of this moment's model scaled down or up."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from PIL import Image

from lightning_drift.common.errors import UserError
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.stable_diffusion.drift_dial import Drift, dial_title, read_drifts
from lightning_drift.stable_diffusion.interpolation import interpolating
from lightning_drift.stable_diffusion.loading import open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED

MOST_VALUES = 100
"""Pictures in a row at most."""


def read_values(values: str | float | Iterable[float | str] | None, option: str) -> list[Drift]:
    """Drift values from 0 to 1.5; an empty list for None.

    Raises:
        UserError: They are no drifts, or out of range.
    """
    if values is None:
        return []
    drifts = read_drifts(values, option)
    if len(drifts) > MOST_VALUES:
        raise UserError(f"the list holds {len(drifts):,} numbers; give at most {MOST_VALUES}", option)
    return drifts


def dial_pictures(
    pl_module: Any, values: Sequence[Drift], picture: Callable[[str], Image.Image]
) -> list[Image.Image]:
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
    images = []
    with interpolating(modules, base) as turn:
        for value in values:
            turn(value)
            images.append(picture(_title(value)))
    return images


def dial_sheet(images: Sequence[Image.Image], values: Sequence[Drift], prompt: str, seed: int) -> Image.Image:
    """The row as a sheet with its drifts above."""
    row = f"{prompt or '(empty prompt)'} (seed {seed})"
    return contact_sheet(images, rows=[row], columns=[*map(_title, values)])


def _title(value: Drift) -> str:
    return f"drift {value:g}" if isinstance(value, float) else dial_title(value)
