"""A finished picture on its way to disk."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass
class Picture:
    """A finished picture on its way to disk.

    Args:
        request: What was asked for: the item of the batch that this picture answers.
        name: File name without its ending; a folder may precede it.
        image: The pixels, RGB or RGBA.
        deep: The same pixels with 16 bits [H, W, 3 or 4], written in their place; None for 8 bits.
        text: PNG text chunks; ``parameters`` decides whether a file on disk is this picture.
        icc_profile: Bytes of the colour profile to embed; None for none.
        dpi: Pixels an inch of a print; None for a picture without a size on paper.
        row: Its row in the contact sheet, usually the prompt.
        column: Its column in the contact sheet, usually the seed.
        beside: A picture that belongs to it and is written with it, such as its map.
    """

    request: object
    name: str
    image: Image.Image
    text: Mapping[str, str] = field(default_factory=dict)
    icc_profile: bytes | None = None
    dpi: float | None = None
    deep: NDArray[np.uint16] | None = None
    row: str = ""
    column: str = ""
    beside: "Picture | None" = None


def parameters_digest(parameters: str) -> str:
    """Eight hexadecimal digits that tell a picture's parameters from others, for its file's name."""
    return hashlib.sha256(parameters.encode()).hexdigest()[:8]
