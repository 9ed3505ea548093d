"""Pictures whose bytes were changed: decoded, or refused in a sentence."""

import tempfile
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers.bounded import value_or_sentence
from helpers.hostile import changed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from lightning_drift.images.decode import UndecodableError, decode, read_source
from lightning_drift.images.png import stored_parameters

LARGEST = 179_000_000
"""Pixels that Pillow decodes at most."""


def pictures() -> dict[str, bytes]:
    """A small picture in each format and in what formats can be, with EXIF, a profile and several pages."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    noise[:, :, :3] = noise[:, :, :3] // 64 * 64
    rgba = Image.fromarray(noise)
    rgb, exif = rgba.convert("RGB"), Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a picture"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80)
    found = {}
    for name, image, options in (
        ("JPEG", rgb, {"exif": exif, "icc_profile": profile}),
        ("JPEG progressive", rgb, {"progressive": True}),
        ("JPEG CMYK", rgb.convert("CMYK"), {}),
        ("PNG", rgba, {"icc_profile": profile}),
        ("PNG palette", rgb.quantize(16), {"transparency": 3}),
        ("PNG deep", deep, {}),
        ("WEBP", rgba, {"exif": exif}),
        ("WEBP lossless", rgb, {"lossless": True}),
        ("TIFF", rgb, {"compression": "tiff_lzw", "save_all": True, "append_images": [rgb.convert("L")]}),
        ("TIFF jpeg", rgb, {"compression": "jpeg"}),
        ("TIFF float", Image.fromarray(np.linspace(0, 1, 768, dtype=np.float32).reshape(24, 32)), {}),
        ("HEIF", rgb, {"exif": exif.tobytes()}),
        ("AVIF", rgb, {}),
        ("GIF", rgb.quantize(16), {"save_all": True, "append_images": [rgb.quantize(8)]}),
        ("BMP", rgb, {}),
    ):
        file = BytesIO()
        image.save(file, format=name.partition(" ")[0], **options)
        found[name] = file.getvalue()
    return found


PICTURES = pictures()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def as_for_a_user() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("kind", PICTURES)
def test_unchanged_they_are_decoded(kind: str, folder: Path) -> None:
    assert {*decode(PICTURES[kind]).image.size} == {24, 32}
    (folder / "picture").write_bytes(PICTURES[kind])
    assert read_source(folder / "picture").image.mode == "RGB"


@pytest.mark.parametrize("kind", PICTURES)
def test_changed_bytes(kind: str, folder: Path) -> None:
    path = folder / "picture.png"

    @given(changed(PICTURES[kind]))
    def look(data: bytes) -> None:
        decoded = value_or_sentence(lambda: decode(data), UndecodableError)
        if decoded is not None:
            assert decoded.image.mode == "RGB"
            assert decoded.image.width * decoded.image.height <= LARGEST
        path.write_bytes(data)
        source = value_or_sentence(lambda: read_source(path), UndecodableError)
        assert source is None or source.image.mode == "RGB"
        assert value_or_sentence(lambda: stored_parameters(path)) is None

    look()


STARTS = (
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"II*\0",
    b"RIFF\0\1\0\0WEBP",
    b"\0\0\0\x18ftypheic",
)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for start in (
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"II*\0",
        b"RIFF\0\1\0\0WEBP",
        b"\0\0\0\x18ftypheic",
    ):
        decoded = value_or_sentence(lambda start=start: decode(start + data), UndecodableError)
        assert decoded is None or decoded.image.mode == "RGB"
