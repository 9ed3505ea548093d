"""Pixels of 16 bits, and colours in a paper's profile: what Pillow does with 8 bits only, by libvips."""

from typing import Any, TypeVar

import numpy as np
import pyvips
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""[H, W, 3], RGB, of 8 or 16 bits."""

_Kind = TypeVar("_Kind", NDArray[np.uint8], NDArray[np.uint16])


def read_deep(data: bytes) -> NDArray[np.uint16] | None:
    """The colours of a PNG or TIFF that has 16 bits a channel, upright, without transparency.

    Args:
        data: A file that was decoded in 8 bits before, so that it is whole and of a sane size.

    Returns:
        [H, W, 3] in the file's own colour space; None for other depths, other colours than RGB and grey
        without a profile, and what libvips does not read.
    """
    try:
        image = _opened(data)
        if image is None:
            return None
        grey = image.interpretation == "grey16"
        image = image.autorot()
        image = image.extract_band(0, n=1 if grey else 3)
        pixels: NDArray[np.uint16] = image.numpy().reshape(image.height, image.width, -1)
    except pyvips.Error:
        return None
    return np.repeat(pixels, 3, axis=2) if grey else pixels


def is_deep(data: bytes) -> bool:
    """Whether `read_deep` finds 16 bits a channel, as far as a file's head tells."""
    try:
        return _opened(data) is not None
    except pyvips.Error:
        return False


def _opened(data: bytes) -> Any:
    """A file of 16 bits, its pixels not yet read; None for others."""
    if data.startswith(b"\x89PNG"):
        image = pyvips.Image.pngload_buffer(data)
    elif data.startswith((b"II", b"MM")):
        image = pyvips.Image.tiffload_buffer(data)
    else:
        return None
    grey = image.interpretation == "grey16"
    usable = (grey and not image.get_typeof("icc-profile-data")) or image.interpretation == "rgb16"
    return image if usable and image.format == "ushort" else None


def to_vips(pixels: Pixels) -> Any:
    """Pixels, with transparency or without, as an image of libvips, which shares their memory."""
    deep = pixels.dtype == np.uint16
    return pyvips.Image.new_from_array(
        np.ascontiguousarray(pixels), interpretation="rgb16" if deep else "srgb"
    )


def in_profile(pixels: _Kind, source: bytes, target: bytes) -> _Kind:
    """Colours of one RGB profile in another, relative colorimetric with black point compensation.

    Args:
        pixels: [H, W, 3].
        source: The profile that they are in, as ICC bytes.
        target: That in which they are wanted.

    Raises:
        pyvips.Error: A profile cannot be used so.
    """
    blob, name = pyvips.GValue.blob_type, "icc-profile-data"
    options = {"intent": "relative", "black_point_compensation": True, "pcs": "lab"}
    image = to_vips(pixels).copy()
    image.set_type(blob, name, source)
    lab = image.icc_import(embedded=True, **options).copy()
    lab.set_type(blob, name, target)
    converted = lab.icc_export(depth=8 * pixels.dtype.itemsize, **options)
    result: _Kind = converted.numpy().astype(pixels.dtype, copy=False)
    return result
