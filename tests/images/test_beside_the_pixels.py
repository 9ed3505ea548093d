"""What is no picture, and what stands beside a picture's pixels: a sentence, or the picture."""

import os
import re
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import lightning_drift
from lightning_drift.images.decode import UndecodableError, decode, read_file, read_source
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import stored_parameters, write_png
from lightning_drift.images.png_chunks import MAX_PROFILE, SIGNATURE

PICTURE = Image.effect_noise((12, 9), 80).convert("RGB")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png(image: Image.Image = PICTURE, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes, damage: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ damage)


def with_chunks(*chunks: bytes, whole: bytes | None = None) -> bytes:
    """A PNG with chunks behind its header."""
    whole = whole or png()
    return whole[:33] + b"".join(chunks) + whole[33:]


def many_texts() -> bytes:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * 2**20))
    return with_chunks(*[text] * 2000)


BESIDE: dict[str, Callable[[], bytes]] = {
    "packed text": lambda: with_chunks(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b" " * 2**22))),
    "packed international text": lambda: with_chunks(
        chunk(b"iTXt", b"workflow\0\1\0en\0\0" + zlib.compress(b" " * 2**22))
    ),
    "plain text": lambda: with_chunks(chunk(b"tEXt", b"workflow\0" + b" " * 2**22)),
    "many texts": many_texts,
    "text of no keyword": lambda: with_chunks(chunk(b"iTXt", b""), chunk(b"zTXt", b"a"), chunk(b"tEXt", b"")),
    "text with a wrong check sum": lambda: with_chunks(chunk(b"tEXt", b"a\0b", damage=1)),
    "text that is no packed one": lambda: with_chunks(chunk(b"zTXt", b"a\0\0not packed")),
    "long profile": lambda: with_chunks(chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB + bytes(2**21)))),
    "endless profile": lambda: with_chunks(
        chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(MAX_PROFILE + 1)))
    ),
    "profile of another packing": lambda: with_chunks(chunk(b"iCCP", b"sRGB\0\7" + zlib.compress(SRGB))),
    "profile that is cut": lambda: with_chunks(chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB)[:9] + b"!")),
    "short remarks": lambda: with_chunks(
        *(chunk(kind, b"") for kind in (b"pHYs", b"sRGB", b"gAMA", b"cHRM"))
    ),
    "animation that breaks off": lambda: with_chunks(chunk(b"acTL", struct.pack(">II", 3, 0))),
    "animation out of order": lambda: with_chunks(chunk(b"fdAT", bytes(9)), chunk(b"fcTL", bytes(3))),
    "broken EXIF": lambda: with_chunks(chunk(b"eXIf", b"MM\0*" + b"\xff" * 40)),
    "more behind the end": lambda: png() + b"\0" * 1000,
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_pixels_costs_no_picture(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(BESIDE[name]())
    expected = np.asarray(PICTURE, dtype=int)
    assert np.abs(np.asarray(decode(path).image, dtype=int) - expected).max() <= 1
    assert np.abs(np.asarray(read_source(path).image, dtype=int) - expected).max() <= 1


def test_profiles_transparency_and_orientation_survive_beside_a_long_text(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = PICTURE.convert("P")
    whole = png(clear, transparency=0, exif=exif.tobytes(), icc_profile=SRGB)
    long = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b" " * 2**22))
    (tmp_path / "a.png").write_bytes(whole)
    (tmp_path / "b.png").write_bytes(with_chunks(long, whole=whole))
    one, other = (read_source(tmp_path / name) for name in ("a.png", "b.png"))
    assert one.image.size == (9, 12)
    assert one.image.tobytes() == other.image.tobytes()
    assert one.alpha is not None
    assert other.alpha is not None
    assert one.alpha.tobytes() == other.alpha.tobytes()
    assert one.icc_profile == other.icc_profile == SRGB


def pages(count: int) -> bytes:
    """A TIFF whose second directory is damaged, or that has very many empty ones."""
    file = BytesIO()
    PICTURE.save(file, "TIFF")
    data = bytearray(file.getvalue())
    (start,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[start : start + 2])
    place = start + 2 + 12 * entries
    data[place : place + 4] = struct.pack("<I", len(data))
    for number in range(count):
        data += struct.pack("<HI", 0, len(data) + 6 if number + 1 < count else 0)
    return bytes(data) if count else bytes(data) + b"\xff\xff\1"


@pytest.mark.parametrize("count", [0, 1, 200_000])
def test_pages_behind_the_first_cost_no_picture(count: int) -> None:
    found = decode(pages(count))
    assert found.image.tobytes() == PICTURE.tobytes()
    assert found.remarks == ("several pages, the first is used",)


def make_socket(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as each:
            each.bind(path.name)
    finally:
        os.chdir(place)


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**31)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a pipe, a device or a socket and no file"),
    "socket": (make_socket, "is a pipe, a device or a socket and no file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe, a device or a socket and no file"),
    "folder": (Path.mkdir, "is a folder and no file"),
    "link to nothing": (lambda path: path.symlink_to("gone"), "cannot be opened (No such file or directory)"),
    "link to itself": (
        lambda path: path.symlink_to(path.name),
        "cannot be opened (Too many levels of symbolic links)",
    ),
    "sparse file": (sparse, "holds more than 1 GiB, which no picture here does"),
    "empty file": (Path.touch, "is empty (0 bytes)"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_file_is_not_opened(name: str, tmp_path: Path) -> None:
    make, sentence = ODD[name]
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(UndecodableError) as caught:
        decode(path)
    assert str(caught.value) == sentence
    assert stored_parameters(path) is None


def bomb() -> bytes:
    """400 megapixels in a few KB."""
    file = BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def test_a_bomb_is_refused_by_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(chunk(b"tEXt", b"parameters\0a tree"), whole=bomb()))
    for work in (decode, read_source):
        with pytest.raises(UndecodableError, match=r"has more pixels than is safe .*178 megapixels"):
            work(path)
    assert stored_parameters(path) is None


@pytest.mark.parametrize("text", ["a tree", "čaj \U0001f375", "a" * 3_000_000, "", "a\nSteps: 20, Seed: 1"])
def test_parameters_come_back_as_they_were_written(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, Picture(None, "a", PICTURE, {"parameters": text}, icc_profile=SRGB + bytes(2**21)))
    assert stored_parameters(path) == text
    path.write_bytes(path.read_bytes()[:-40])
    assert stored_parameters(path) is None


@pytest.mark.parametrize("seed", range(40))
def test_hostile_chunks_are_a_picture_or_a_sentence(seed: int, tmp_path: Path) -> None:
    chance = np.random.default_rng(seed)
    data = bytearray(with_chunks(chunk(b"iTXt", b"parameters\0\0\0\0\0a tree"), chunk(b"tRNS", bytes(6))))
    for _ in range(3):
        data[int(chance.integers(len(SIGNATURE), len(data)))] = int(chance.integers(256))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with suppress(UndecodableError):
        assert decode(path).image.mode == "RGB"
    stored = stored_parameters(path)
    assert stored is None or len(stored) <= len(data)


def test_pictures_are_opened_in_one_place_only() -> None:
    root = Path(lightning_drift.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"\bImage\.open\(", path.read_text(encoding="utf-8"))
    }
    assert found == {"images/decode.py"}
    assert read_file(root / "__init__.py")
