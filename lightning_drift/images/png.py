"""A finished picture as a PNG file with the text that tells how it was made."""

from pathlib import Path

import pyvips
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import UndecodableError, decode, read_file
from lightning_drift.images.deep import to_vips
from lightning_drift.images.picture import Picture
from lightning_drift.images.png_chunks import text_of, with_text


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
    try:
        if picture.deep is not None:
            data = _deep(picture)
            with atomic_write(path) as file:
                file.write(data)
            return
        info = PngInfo()
        for key, value in picture.text.items():
            info.add_itxt(key, value) if not value.isascii() else info.add_text(key, value)
        options = {} if picture.dpi is None else {"dpi": (picture.dpi, picture.dpi)}
        with atomic_write(path) as file:
            # Pillow keeps the options of a save in the image, for other threads too.
            image = picture.image.copy()
            image.save(file, format="PNG", pnginfo=info, icc_profile=picture.icc_profile, **options)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _deep(picture: Picture) -> bytes:
    """The file of a picture with 16 bits, which Pillow does not write."""
    assert picture.deep is not None
    density = (picture.dpi or 72) / 25.4
    image = to_vips(picture.deep).copy(xres=density, yres=density)
    if picture.icc_profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", picture.icc_profile)
    return with_text(image.pngsave_buffer(keep="icc"), picture.text)


def save_png(path: Path, image: Image.Image) -> None:
    """Write a PNG, complete or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with atomic_write(path) as file:
        image.copy().save(file, format="PNG")  # as in `write_png`
