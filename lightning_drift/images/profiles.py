"""Colour profiles: sRGB's own, and those of files."""

from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import ImageCms

from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import UndecodableError, is_rgb, read_file

MOST_BYTES = 16 * 2**20


@cache
def srgb() -> bytes:
    """The profile of sRGB, the same bytes on every day (Little CMS writes the time into it)."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = bytes.fromhex("07cf00010001000000000000")  # 1999-01-01
    return bytes(data)


def read_profile(path: Path, option: str) -> bytes:
    """The bytes of an RGB profile, such as a paper's.

    Raises:
        UserError: The file cannot be read, is no profile, or is one of other colours than RGB.
    """
    try:
        data = read_file(path)
    except UndecodableError as error:
        raise UserError(f"{path} {error}", option) from error
    if len(data) > MOST_BYTES or not is_rgb(data):
        raise UserError(f"{path} is no colour profile of RGB; give an .icc file of one", option)
    return data


def profile_name(data: bytes) -> str:
    """What a profile calls itself."""
    return " ".join(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(data))).split())
