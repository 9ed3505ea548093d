"""What a seed grid hands to its listeners."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from lightning_drift.fit.grid_listeners import GridPictures


class GridHistory:
    """A listener that remembers the pictures of every milestone by step."""

    def __init__(self) -> None:
        self.images: dict[int, Mapping[tuple[str, int], Image.Image]] = {}

    def on_grid(self, trainer: Any, module: Any, pictures: GridPictures) -> None:
        assert pictures.step not in self.images
        self.images[pictures.step] = pictures.images
