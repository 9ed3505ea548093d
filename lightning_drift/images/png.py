"""A finished picture, and its PNG file with the text that tells how it was made."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import UndecodableError, decode, read_file
from lightning_drift.images.png_chunks import text_of


@dataclass
class Picture:
    """A finished picture on its way to disk.

    Args:
        request: What was asked for: the item of the batch that this picture answers.
        name: File name without its ending; a folder may precede it.
        image: The pixels, RGB or RGBA.
        text: PNG text chunks; ``parameters`` decides whether a file on disk is this picture.
        icc_profile: Bytes of the colour profile to embed, if not sRGB.
        row: Its row in the contact sheet, usually the prompt.
        column: Its column in the contact sheet, usually the seed.
        beside: A picture that belongs to it and is written with it, such as its map.
    """

    request: object
    name: str
    image: Image.Image
    text: Mapping[str, str] = field(default_factory=dict)
    icc_profile: bytes | None = None
    row: str = ""
    column: str = ""
    beside: "Picture | None" = None


def parameters_digest(parameters: str) -> str:
    """Eight hexadecimal digits that tell a picture's parameters from others, for its file's name."""
    return hashlib.sha256(parameters.encode()).hexdigest()[:8]


def stored_parameters(path: Path) -> str | None:
    """The ``parameters`` text of a whole PNG.

    None if there is none, or the file is damaged, no picture, or larger than is safe to decode.
    """
    try:
        data = read_file(path)
        text = text_of(data, "parameters")
        if text is not None:
            decode(data)
    except UndecodableError:
        return None
    return text


def is_made_by(path: Path, software: str) -> bool:
    """Whether a file is a PNG whose ``Software`` text is this one; False for one that cannot be read."""
    try:
        return text_of(read_file(path), "Software") == software
    except UndecodableError:
        return False


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture as a PNG, complete or not at all.

    Raises:
        UserError: If the file cannot be written; no partial file is left.
    """
    info = PngInfo()
    for key, value in picture.text.items():
        info.add_itxt(key, value) if not value.isascii() else info.add_text(key, value)
    try:
        with atomic_write(path) as file:
            image = (
                picture.image.copy()
            )  # Pillow keeps the options of a save in the image, for other threads too
            image.save(file, format="PNG", pnginfo=info, icc_profile=picture.icc_profile)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def save_png(path: Path, image: Image.Image) -> None:
    """Write a PNG, complete or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with atomic_write(path) as file:
        image.copy().save(file, format="PNG")  # as in `write_png`
