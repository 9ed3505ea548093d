"""What a seed grid hands on at each milestone, and to whom."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lightning.pytorch import Trainer
from PIL import Image


@dataclass(frozen=True)
class GridPictures:
    """What a seed grid has rendered at one milestone.

    Attributes:
        step: Optimizer steps; 0 is the base model.
        images: Pictures by (prompt, seed); only the first rank renders, and all others have none.
        found: Whether all of them are a base's that was rendered before, with the same bits.
    """

    step: int
    images: Mapping[tuple[str, int], Image.Image] = field(default_factory=dict)
    found: bool = False


class GridListener(Protocol):
    """Something that is handed a seed grid's pictures."""

    def on_grid(self, trainer: Trainer, module: Any, pictures: GridPictures) -> None:
        """Take a milestone's pictures, in ``fit`` and in ``validate``, on every rank.

        The grid is written by then. The step's checkpoint is not saved yet.
        """
