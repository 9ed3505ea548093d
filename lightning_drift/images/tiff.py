"""A finished picture as a TIFF: what print shops and photo editors take, with 16 bits where there are."""

from pathlib import Path

import numpy as np
import pyvips

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import UndecodableError, decode, read_file
from lightning_drift.images.deep import to_vips
from lightning_drift.images.picture import Picture

_DESCRIPTION = "image-description"
_INCH = 25.4


def write_tiff(path: Path, picture: Picture) -> None:
    """Write a picture as a TIFF, complete or not at all; its ``parameters`` are the image's description.

    Compressed without loss (deflate with the horizontal predictor, which Photoshop, Affinity and RIPs read).

    Raises:
        UserError: If the file cannot be written; no partial file is left.
    """
    pixels = np.asarray(picture.image) if picture.deep is None else picture.deep
    image = to_vips(pixels).copy()
    image.set_type(pyvips.GValue.gstr_type, _DESCRIPTION, picture.text.get("parameters", ""))
    if picture.icc_profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", picture.icc_profile)
    density = (picture.dpi or 72) / _INCH
    try:
        data = image.tiffsave_buffer(
            compression="deflate", predictor="horizontal", resunit="inch", xres=density, yres=density
        )
        with atomic_write(path) as file:
            file.write(data)
    except pyvips.Error as error:
        raise UserError(f"cannot write {path}: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def stored_parameters(path: Path) -> str | None:
    """The ``parameters`` of a whole TIFF; None if there are none, or the file is damaged or no TIFF."""
    try:
        data = read_file(path)
        if not data.startswith((b"II", b"MM")):
            return None
        decode(data)
        image = pyvips.Image.tiffload_buffer(data)
        return str(image.get(_DESCRIPTION)) if image.get_typeof(_DESCRIPTION) else None
    except (UndecodableError, pyvips.Error):
        return None
