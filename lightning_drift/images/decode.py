"""Decode any picture file into an upright sRGB image, or say in a sentence why not."""

import stat
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lightning_drift.common.out_of_memory import exhausted
from lightning_drift.common.text import byte_size
from lightning_drift.images.deep import read_deep
from lightning_drift.images.png_chunks import trimmed

try:
    import pillow_heif
except ImportError:  # an optional dependency: a HEIC file is then refused with a sentence
    pass
else:
    pillow_heif.register_heif_opener()

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".tif", ".tiff", ".heic", ".heif",
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF", "TIFF", "HEIF", "GIF")
"""Decoders that a file's content may choose, whatever its name says; Pillow's rarer ones stay shut."""

MAX_BYTES = 2**30
"""What a picture's file may hold; a larger one is no photograph."""

_ORIENTATION = 0x0112
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


class UndecodableError(Exception):
    """A file that cannot be used as a picture; the message completes the sentence ``<file> …``."""


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes:
        image: Mode ``RGB``, upright, in sRGB, opaque.
        remarks: What was decided on the way and the user may want to know, each a short phrase.
    """

    image: Image.Image
    remarks: tuple[str, ...]


def decode(source: Path | bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Decoded:
    """Read a picture as a person sees it.

    EXIF orientation is applied, the embedded ICC profile converted to sRGB (relative colorimetric with black
    point compensation, as photo editors do), transparency laid over ``background``. Of several frames or
    pages the first is taken. 16-bit samples are scaled to 8 bits; floating-point samples are read as 0 to 1.

    Args:
        source: The file, or its bytes; the content and not the name decides the format.
        background: The sRGB colour seen through transparent parts, 0 to 255 each.

    Returns:
        The picture and remarks.

    Raises:
        UndecodableError: The file is no picture, is damaged, or cannot be read.
    """
    data = source if isinstance(source, bytes) else read_file(source)
    if not data:
        raise UndecodableError("is empty (0 bytes)")
    with warnings.catch_warnings():
        # Pillow warns above 89 megapixels and refuses above 178; phones do take 108: refusing is enough.
        warnings.simplefilter("ignore")
        return _decode(data, background)


def read_file(path: Path) -> bytes:
    """A file's bytes, for `decode`. Only regular files are opened: a pipe or a device would never end.

    Raises:
        UndecodableError: It is something else, cannot be read, or holds more than 1 GiB.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UndecodableError("is a folder and no file")
        if not stat.S_ISREG(status.st_mode):
            raise UndecodableError("is a pipe, a device or a socket and no file")
        if status.st_size > MAX_BYTES:
            raise UndecodableError(f"holds more than {MAX_BYTES // 2**30} GiB, which no picture here does")
        return path.read_bytes()
    except OSError as error:
        raise UndecodableError(f"cannot be opened ({error.strerror or error})") from error
    except ValueError as error:  # a name with a NUL character, or one that the system's encoding lacks
        raise UndecodableError(f"cannot be opened ({error})") from error


def _decode(data: bytes, background: tuple[int, int, int]) -> Decoded:
    image, remarks = _load(data)
    if image.format != "MPO" and _has_more(image):  # MPO: a JPEG with a preview or depth map
        kind = "pages" if image.format == "TIFF" else "frames"
        remarks.append(f"several {kind}, the first is used")
    profile = image.info.get("icc_profile")
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:
        remarks.append("unreadable EXIF data, taken as upright")
    try:
        colour, alpha = _split_alpha(image)
        rgb = _to_srgb(colour, profile, remarks)
    except UndecodableError:
        raise
    except Exception as error:
        _refuse_full(error, image.size)
        raise UndecodableError(f"has pixels that cannot be converted to RGB ({error})") from error
    if alpha is not None:
        ground = Image.new("RGB", rgb.size, background)
        ground.paste(rgb, mask=alpha)
        rgb = ground
    return Decoded(rgb, tuple(remarks))


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """8-bit colour (mode L, RGB, CMYK or LAB) as sRGB, through a profile that can be read and fits."""
    return _to_srgb(image, profile, [])


def _load(data: bytes) -> tuple[Image.Image, list[str]]:
    """Open and decode the first frame; turn every way this fails into one sentence.

    Returns:
        The image, and remarks on what beside its pixels was left out.
    """
    Image.init()
    png = trimmed(data)
    try:
        image = Image.open(BytesIO(png.data), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise UndecodableError(_what_instead(data)) from error
    except Image.DecompressionBombError as error:
        raise UndecodableError(_too_large()) from error
    except Exception as error:  # decoders raise whatever the bytes lead them to
        raise UndecodableError(f"is damaged ({error})") from error
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise UndecodableError(_too_large()) from error
    except Exception as error:  # likewise
        _refuse_full(error, image.size)
        raise UndecodableError(f"is damaged or cut short ({error})") from error
    if png.profile is not None:
        image.info["icc_profile"] = png.profile
    return image, list(png.remarks)


def _refuse_full(error: Exception, size: tuple[int, int]) -> None:
    """Tell a full memory from a damaged file.

    Raises:
        UndecodableError: The exception says that memory is full.
    """
    if (found := exhausted(error)) is not None:
        free = "" if found.free is None else f", of which {byte_size(found.free)} are free"
        raise UndecodableError(
            f"is {size[0]}x{size[1]}, and decoding it takes more than the computer's memory{free}"
        ) from error


def _too_large() -> str:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
    return f"has more pixels than is safe to decode (above {limit} megapixels: a decompression bomb?)"


def _has_more(image: Image.Image) -> bool:
    """Whether frames or pages follow the first; what is damaged behind it does not count."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # decoders raise whatever the bytes lead them to
        return False


def _what_instead(data: bytes) -> str:
    """Name what a file is that no decoder takes."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not an image (a download that went wrong?)"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if (
            brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc")
            and "HEIF" not in Image.OPEN
        ):
            return "is a HEIC image: to read those, pip install pillow-heif"
        if brand in (b"isom", b"mp41", b"mp42", b"qt  ", b"M4V "):
            return "is a video, not an image"
    if start.startswith(b"<?xml") or start.startswith(b"<svg"):
        return "is XML or SVG, not a photograph"
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF8")) or (
        data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    ):
        return "is damaged, or of a variant that cannot be read"
    return "is not an image"


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Part colour (mode L, RGB, CMYK, LAB or YCbCr, 8 bits) from opacity (mode L, or None where opaque)."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _deep_grey(image)
    if image.has_transparency_data:
        if mode in ("LA", "La"):
            grey, alpha = image.convert("LA").split()
            return grey, alpha
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    if mode == "1":
        return image.convert("L"), None
    if mode in ("L", "CMYK", "LAB", "RGB"):
        return image, None
    return image.convert("RGB"), None


def _deep_grey(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Scale grey of 16 or 32 bits an integer, or of floating point, to 8 bits."""
    samples = np.asarray(image)
    alpha = None
    if image.mode == "F":
        inside = np.isfinite(samples) & (samples >= 0) & (samples <= 1)
        if not np.isfinite(samples).all() or inside.mean() < 0.99:
            raise UndecodableError("has floating-point samples outside 0 to 1: save it with 8 or 16 bits")
        grey = np.rint(np.clip(samples, 0, 1) * 255)
    else:
        low, high = int(samples.min()), int(samples.max())
        if image.mode == "I" and not (low >= 0 and 255 < high <= 65535):
            raise UndecodableError(
                f"has 32-bit samples of unclear range ({low} to {high}): save it with 8 or 16 bits"
            )
        grey = np.rint(samples.astype(np.float64) / 257)  # 65535 = 257 * 255
        key = image.info.get("transparency")
        if isinstance(key, int):
            alpha = Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8))
    return Image.fromarray(grey.astype(np.uint8)), alpha


def _to_srgb(image: Image.Image, profile: bytes | None, remarks: list[str]) -> Image.Image:
    """Convert 8-bit colour to sRGB through its profile; without a usable one, by the mode's plain formula."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            mode = _PROFILE_MODES[source.profile.xcolor_space.strip()]
            if mode == "RGB" and image.mode == "L":  # common: grey pixels, an RGB profile
                image = image.convert("RGB")
            if mode == image.mode:
                return _transform(image, source)
            reason = f"is for {mode} while the pixels are {image.mode}"
        except (OSError, KeyError, ValueError, TypeError, ImageCms.PyCMSError):
            reason = "cannot be read"
        remarks.append(f"colour profile that {reason}, taken as sRGB")
    return image.convert("RGB")


def _transform(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        source,
        _SRGB,
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # None is for inPlace=True only
    return converted


@dataclass(frozen=True)
class Source:
    """A decoded image file.

    Attributes:
        image: Upright, mode RGB.
        alpha: Its transparency, mode L; None where opaque.
        icc_profile: The profile that the colours of `image` are in; None for sRGB.
        deep: The same colours with 16 bits [H, W, 3], where the file has them.
    """

    image: Image.Image
    alpha: Image.Image | None
    icc_profile: bytes | None
    deep: NDArray[np.uint16] | None = None


def read_source(path: Path) -> Source:
    """Read an image upright, with its transparency, and in its own RGB profile.

    Colours of an RGB file stay as they are, so that the result can carry the same profile; those of other
    modes (CMYK, Lab, grey with a profile) are converted to sRGB.

    Raises:
        UndecodableError: The file is no picture, is damaged, or cannot be read.
    """
    data = read_file(path)
    image = decode(data).image  # says in a sentence what is wrong with a bad file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as `decode` does
        opened, _ = _load(data)
    profile = opened.info.get("icc_profile")
    alpha = None
    own: Image.Image = opened
    try:
        own = ImageOps.exif_transpose(opened)
    except Exception:  # unreadable EXIF data: taken as upright, as `decode` does
        own = opened
    if own.has_transparency_data and own.mode not in ("I", "I;16", "F"):
        rgba = own.convert("RGBA")
        image, alpha = rgba.convert("RGB"), rgba.getchannel("A")
        if isinstance(profile, bytes) and own.mode not in ("RGBA", "P"):  # grey; cannot carry its profile
            image = to_srgb(own.convert("L"), profile)
    elif own.mode in ("RGB", "P"):
        image = own.convert("RGB")
    keeps = isinstance(profile, bytes) and own.mode in ("RGB", "RGBA", "P") and is_rgb(profile)
    deep = read_deep(data)
    if deep is not None and deep.shape[:2] != (image.height, image.width):
        deep = None  # turned by a remark that the two readers take differently
    return Source(image, alpha, profile if keeps else None, deep)


def upright_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a picture as `read_source` has it, from the file's head; None for no picture."""
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as `decode` does
            image = Image.open(
                BytesIO(trimmed(data).data), formats=[name for name in FORMATS if name in Image.OPEN]
            )
            size, turned = image.size, image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except Exception:  # decoders raise whatever the bytes lead them to; reading the picture says it
        return None
    return (size[1], size[0]) if turned else size


def is_rgb(profile: bytes) -> bool:
    """Whether bytes are a colour profile of RGB that can be read."""
    try:
        return ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space.strip() == "RGB"
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return False
