"""Every way a photograph can come, and every way it can be broken."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, features

from lightning_drift.images.decode import FORMATS, UndecodableError, decode

T = Image.Transpose
STORED_AS = {  # what a camera stores so that the orientation tag makes it upright
    1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM,
    5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270,
}  # fmt: skip


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green / blue, white: any turn or flip shows."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    return Image.fromarray(pixels)


def corners(image: Image.Image) -> np.ndarray:
    w, h = image.size
    points = [(w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4), (3 * w // 4, 3 * h // 4)]
    return np.array([image.getpixel(point) for point in points], int)


def saved(tmp_path: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def seen(path: Path, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    image = decode(path, background).image
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand, for the depths that Pillow cannot write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, sample_format: int) -> bytes:
    """An uncompressed little-endian RGB TIFF written by hand (sample format 1 unsigned, 3 floating point)."""
    height, width, samples = pixels.shape
    bits = pixels.dtype.itemsize * 8
    data = pixels.tobytes()
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, None), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, len(data)), (339, 3, 3, None),
    ]  # fmt: skip
    directory = 8 + len(data) + 12
    triples = {258: 8 + len(data), 339: 8 + len(data) + 6}
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, triples[tag] if value is None else value)
        for tag, kind, count, value in tags
    )
    extra = struct.pack("<3H", *[bits] * 3) + struct.pack("<3H", *[sample_format] * 3)
    head = b"II*\0" + struct.pack("<I", directory)
    return head + data + extra + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def icc(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (ICC.1:2010) of a header and the given tags."""
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I", start + len(body)) + b"\0" * 4 + b"\x04\x20\0\0" + kind + space + pcs
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28
    header += fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def matrix_profile(primaries: list[tuple[float, float, float]], curve: bytes) -> bytes:
    xyz = [b"XYZ \0\0\0\0" + b"".join(map(fixed, primary)) for primary in primaries]
    white = b"XYZ \0\0\0\0" + fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz, strict=True)) | {b"wtpt": white}
    return icc(b"RGB ", b"mntr", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + b"".join(
    map(fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
ADOBE_RGB = matrix_profile(
    [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)], gamma(2.19921875)
)
DISPLAY_P3 = matrix_profile(
    [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)], SRGB_CURVE
)
LINEAR_GREY = icc(
    b"GRAY", b"mntr", b"XYZ ",
    {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642) + fixed(1.0) + fixed(0.8249), b"kTRC": gamma(1.0)},
)  # fmt: skip


def cmyk_profile() -> bytes:
    """A press whose magenta over yellow is middle grey (L* 53.6): no plain formula would say so."""
    nodes = b""
    for c in (0, 1):
        for m in (0, 1):
            for y in (0, 1):
                for k in (0, 1):
                    light = 0 if k or c else 53.585 if m and y else 100
                    nodes += bytes((round(light * 2.55), 128, 128))
    ramp = bytes(range(256))
    identity = b"".join(fixed(float(i % 4 == 0)) for i in range(9))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + nodes + ramp * 3
    return icc(b"CMYK", b"prtr", b"Lab ", {b"A2B0": lut})


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "avif", "heic"])
def test_every_orientation_comes_out_upright(tmp_path: Path, extension: str) -> None:
    for tag, transpose in STORED_AS.items():
        stored = quarters() if transpose is None else quarters().transpose(transpose)
        exif = Image.Exif()
        exif[0x0112] = tag
        path = saved(tmp_path, f"{tag}.{extension}", stored, exif=exif.tobytes(), quality=95)
        picture = decode(path)
        assert picture.image.size == (96, 64), tag
        assert np.abs(corners(picture.image) - corners(quarters())).max() < 12, tag
        assert picture.remarks == ()


def test_broken_exif_is_taken_as_upright(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jpg", quarters(), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xffbroken")
    assert decode(path).image.size == (96, 64)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "avif", "tif", "heic"])
def test_plain_pictures_of_each_format(tmp_path: Path, extension: str) -> None:
    path = saved(tmp_path, f"a.{extension}", quarters(), quality=95)
    tolerance = 0 if extension in ("png", "bmp", "tif") else 12
    assert np.abs(corners(decode(path).image) - corners(quarters())).max() <= tolerance


def test_the_content_and_not_the_name_decides(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "really_png.jpg")
    assert np.array_equal(seen(tmp_path / "really_png.jpg"), np.asarray(quarters()))


RAMP = np.arange(256, dtype=np.uint16)[None].repeat(8, 0)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("grey16.png", RAMP * 257),
        ("grey16.tif", RAMP * 257),
        ("grey8.png", RAMP.astype(np.uint8)),
        ("float.tif", (RAMP / 255).astype(np.float32)),
        ("int32.tif", RAMP.astype(np.int32) * 257),
    ],
)
def test_deep_grey_ramps_become_the_8_bit_ramp(tmp_path: Path, name: str, array: np.ndarray) -> None:
    path = saved(tmp_path, name, Image.fromarray(array))
    assert np.array_equal(seen(path), RAMP[..., None].repeat(3, 2))


def test_16_bit_grey_is_rounded_not_cut(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16)
    path = saved(tmp_path, "a.png", Image.fromarray(values.repeat(4, 0)))
    assert seen(path)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def test_big_endian_16_bit_grey(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_grey_big_endian())
    assert seen(path)[0, :, 0].tolist() == [0, 128, 255]


def tiff_grey_big_endian() -> bytes:
    data = struct.pack(">3H", 0, 128 * 257, 65535)
    tags = [(256, 3), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(data))]
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return (
        b"MM\0*"
        + struct.pack(">I", 8 + len(data))
        + data
        + struct.pack(">H", len(tags))
        + entries
        + b"\0" * 4
    )


def test_16_bit_colour(tmp_path: Path) -> None:
    pixels = (np.stack([RAMP, RAMP[:, ::-1], RAMP * 0 + 255], 2) * 257).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    (tmp_path / "a.png").write_bytes(png(256, 8, 16, 2, rows))
    (tmp_path / "a.tif").write_bytes(tiff(pixels, 1))
    for name in ("a.png", "a.tif"):
        assert np.array_equal(seen(tmp_path / name), pixels // 257), name


def test_16_bit_colour_with_alpha(tmp_path: Path) -> None:
    pixel = struct.pack(">4H", 0, 0, 0, 32768)
    (tmp_path / "a.png").write_bytes(png(4, 4, 16, 6, (b"\0" + pixel * 4) * 4))
    assert np.abs(seen(tmp_path / "a.png") - 127).max() <= 1


def test_16_bit_grey_with_alpha(tmp_path: Path) -> None:
    pixel = struct.pack(">2H", 65535, 32768)
    (tmp_path / "a.png").write_bytes(png(4, 4, 16, 4, (b"\0" + pixel * 4) * 4))
    assert np.abs(seen(tmp_path / "a.png", (0, 0, 0)) - 128).max() <= 1


def test_16_bit_grey_with_a_transparent_value(tmp_path: Path) -> None:
    rows = (b"\0" + struct.pack(">2H", 4000, 65535)) * 2
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 2, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 4000))))
    assert seen(path, (9, 8, 7))[0].tolist() == [[9, 8, 7], [255, 255, 255]]


@pytest.mark.parametrize(
    ("mode", "name", "colour", "expected", "tolerance"),
    [
        ("1", "a.png", 1, (255, 255, 255), 0),
        ("1", "a.tif", 0, (0, 0, 0), 0),
        ("L", "a.jpg", 100, (100, 100, 100), 1),
        ("LA", "a.png", (100, 255), (100, 100, 100), 0),
        ("LA", "a.png", (0, 128), (127, 127, 127), 0),
        ("RGBA", "a.png", (0, 0, 0, 128), (127, 127, 127), 0),
        ("RGBA", "a.png", (255, 0, 0, 0), (255, 255, 255), 0),
        ("RGBA", "a.webp", (200, 10, 10, 255), (200, 10, 10), 4),
        ("RGBA", "a.avif", (0, 0, 0, 128), (127, 127, 127), 2),
        ("RGBA", "a.tif", (0, 0, 255, 128), (127, 127, 255), 0),
        ("CMYK", "a.tif", (0, 255, 255, 0), (255, 0, 0), 0),
        ("CMYK", "a.jpg", (0, 255, 255, 0), (255, 0, 0), 3),
        ("CMYK", "a.jpg", (0, 0, 0, 255), (0, 0, 0), 3),
        ("CMYK", "a.tif", (255, 0, 0, 128), (0, 127, 127), 1),
        ("YCbCr", "a.jpg", (76, 85, 255), (254, 0, 0), 4),
        ("YCbCr", "a.tif", (76, 85, 255), (254, 0, 0), 4),
        # L*a*b* of sRGB red, green and blue under D50 (Lindbloom), in 8 bits
        ("LAB", "a.tif", (138, 209, 198), (255, 0, 0), 6),
        ("LAB", "a.tif", (224, 49, 209), (0, 255, 0), 14),
        ("LAB", "a.tif", (137, 128, 128), (128, 128, 128), 2),
    ],
)
def test_colour_modes(
    tmp_path: Path, mode: str, name: str, colour: object, expected: tuple[int, ...], tolerance: int
) -> None:
    path = saved(tmp_path, name, Image.new(mode, (32, 32), colour), quality=100)
    picture = decode(path)
    assert picture.remarks == ()
    assert np.abs(np.asarray(picture.image).astype(int) - expected).max() <= tolerance


def test_photoshop_cmyk_jpegs_are_not_inverted(tmp_path: Path) -> None:
    """Adobe stores inverted inks behind an APP14 marker, which libjpeg writes for CMYK too."""
    path = saved(tmp_path, "a.jpg", Image.new("CMYK", (32, 32), (0, 0, 0, 0)), quality=100)
    assert b"Adobe" in path.read_bytes()
    assert seen(path).min() >= 252


def test_background_shows_through(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", Image.new("RGBA", (8, 8), (255, 255, 255, 51)))
    assert seen(path, (100, 0, 50))[0, 0].tolist() == [131, 51, 91]


def test_palettes(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30, 77, 77, 77])
    image.putpixel((0, 0), 2)
    assert seen(saved(tmp_path, "opaque.png", image))[1, 1].tolist() == [10, 200, 30]
    key = saved(tmp_path, "key.png", image, transparency=2)
    assert seen(key)[:2, 0].tolist() == [[255, 255, 255], [10, 200, 30]]
    partly = saved(tmp_path, "partly.png", image, transparency=bytes((255, 128, 0)))
    assert np.abs(seen(partly)[:2, 0] - [[255, 255, 255], [132, 227, 142]]).max() <= 1
    gif = saved(tmp_path, "gif_inside.png", image, format="GIF", transparency=2)
    assert seen(gif)[:2, 0].tolist() == [[255, 255, 255], [10, 200, 30]]


@pytest.mark.parametrize(("mode", "key"), [("L", 5), ("RGB", (5, 5, 5))])
def test_a_transparent_colour(tmp_path: Path, mode: str, key: object) -> None:
    image = Image.new(mode, (4, 4), key)
    image.paste(Image.new(mode, (2, 4), 200 if mode == "L" else (200, 200, 200)), (0, 0))
    path = saved(tmp_path, "a.png", image, transparency=key)
    assert seen(path)[0].tolist() == [[200] * 3] * 2 + [[255] * 3] * 2


# The same colour in each space: sRGB red, green and blue as Adobe RGB and Display P3 write them.
@pytest.mark.parametrize(
    ("profile", "stored", "expected"),
    [
        (ADOBE_RGB, (219, 0, 0), (255, 0, 0)),
        (ADOBE_RGB, (144, 255, 60), (0, 255, 0)),
        (ADOBE_RGB, (255, 0, 0), (255, 0, 0)),
        (DISPLAY_P3, (234, 51, 35), (255, 0, 0)),
        (DISPLAY_P3, (117, 251, 76), (0, 255, 0)),
        (DISPLAY_P3, (0, 0, 245), (0, 0, 255)),
        (DISPLAY_P3, (128, 128, 128), (128, 128, 128)),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif", "a.heic"])
def test_wide_colour_becomes_srgb(
    tmp_path: Path, name: str, profile: bytes, stored: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    path = saved(tmp_path, name, Image.new("RGB", (32, 32), stored), icc_profile=profile, quality=100)
    picture = decode(path)
    assert picture.remarks == ()
    tolerance = (
        4 if name in ("a.png", "a.tif") else 16
    )  # lossy formats, and dark values amplify a step of one
    assert np.abs(np.asarray(picture.image).astype(int) - expected).max() <= tolerance


def test_an_srgb_profile_changes_next_to_nothing(tmp_path: Path) -> None:
    srgb = matrix_profile(
        [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)], SRGB_CURVE
    )
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(tmp_path, "a.png", Image.fromarray(noise), icc_profile=srgb)
    assert np.abs(seen(path) - noise).max() <= 1


def test_alpha_is_laid_over_after_the_colour_is_converted(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (219, 0, 0, 128))
    path = saved(tmp_path, "a.png", image, icc_profile=ADOBE_RGB)
    assert np.abs(seen(path, (0, 0, 255)) - (128, 0, 127)).max() <= 2


def test_grey_with_profiles(tmp_path: Path) -> None:
    grey = Image.new("L", (8, 8), 55)  # linear 55/255 = 0.2157 is sRGB 0.502
    assert np.abs(seen(saved(tmp_path, "a.png", grey, icc_profile=LINEAR_GREY)) - 128).max() <= 1
    path = saved(tmp_path, "b.png", Image.new("L", (8, 8), 128), icc_profile=DISPLAY_P3)
    assert np.abs(seen(path) - 128).max() <= 1
    assert decode(path).remarks == ()


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_goes_through_its_profile(tmp_path: Path, name: str) -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    path = saved(tmp_path, name, image, icc_profile=cmyk_profile(), quality=100)
    assert np.abs(seen(path) - 128).max() <= 4


@pytest.mark.parametrize(
    ("profile", "remark"),
    [
        (b"not a profile at all", "colour profile that cannot be read, taken as sRGB"),
        (ADOBE_RGB[:200], "colour profile that cannot be read, taken as sRGB"),
        (cmyk_profile(), "colour profile that is for CMYK while the pixels are RGB, taken as sRGB"),
    ],
)
def test_a_useless_profile_is_said_and_passed_over(tmp_path: Path, profile: bytes, remark: str) -> None:
    path = saved(tmp_path, "a.png", quarters(), icc_profile=profile)
    assert decode(path).remarks == (remark,)
    assert np.array_equal(seen(path), np.asarray(quarters()))


@pytest.mark.parametrize(
    ("name", "form", "kind"),
    [("a.webp", "WEBP", "frames"), ("a.png", "PNG", "frames"), ("a.gif", "GIF", "frames"),
     ("a.tif", "TIFF", "pages"), ("a.avif", "AVIF", "frames")],
)  # fmt: skip
def test_of_several_frames_the_first_is_used(tmp_path: Path, name: str, form: str, kind: str) -> None:
    others = [Image.new("RGB", (96, 64), "black")] * 2
    path = saved(tmp_path, name, quarters(), format=form, save_all=True, append_images=others, quality=95)
    picture = decode(path)
    assert picture.remarks == (f"several {kind}, the first is used",)
    assert np.abs(corners(picture.image) - corners(quarters())).max() <= 12


def test_a_phone_jpeg_with_a_second_image_behind_it_is_one_photo(tmp_path: Path) -> None:
    more = [Image.new("RGB", (48, 32), "black")]
    path = saved(tmp_path, "a.jpg", quarters(), format="MPO", save_all=True, append_images=more, quality=95)
    picture = decode(path)
    assert picture.remarks == ()
    assert np.abs(corners(picture.image) - corners(quarters())).max() <= 12


def encoded(form: str, **options: object) -> bytes:
    file = BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(noise).save(file, form, **options)
    return file.getvalue()


BOMB = png(20000, 20000, 8, 2, b"\0" * 9)
FLOATS = np.full((8, 8, 3), 0.5, np.float32)
BAD = {
    "empty.jpg": (b"", "is empty (0 bytes)"),
    "page.jpg": (
        b"\n<!DOCTYPE html><html>404</html>",
        "is a web page, not an image (a download that went wrong?)",
    ),
    "text.png": (b"hello " * 99, "is not an image"),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is XML or SVG, not a photograph"),
    "film.heic": (b"\0\0\0\x18ftypmp42" + b"\0" * 99, "is a video, not an image"),
    "header.jpg": (b"\xff\xd8\xff\xe0" + b"\0" * 40, "is damaged, or of a variant that cannot be read"),
    "bomb.png": (
        BOMB,
        "has more pixels than is safe to decode (above 178 megapixels: a decompression bomb?)",
    ),
    "cut.jpg": (encoded("JPEG")[:2000], "is damaged or cut short (image file is truncated"),
    "cut.png": (encoded("PNG")[:2000], "is damaged or cut short ("),
    "cut.bmp": (encoded("BMP")[:2000], "is damaged or cut short ("),
    "cut.tif": (encoded("TIFF")[:2000], "is damaged"),
    "cut.webp": (encoded("WEBP")[:2000], "is damaged"),
    "cut.avif": (encoded("AVIF")[:2000], "is "),
    "floats.tif": (tiff(FLOATS, 3), "is damaged, or of a variant that cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    content, sentence = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UndecodableError) as caught:
        decode(tmp_path / name)
    assert str(caught.value).startswith(sentence)


def test_values_without_a_range_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.tif", Image.fromarray(np.full((8, 8), 37.5, np.float32)))
    with pytest.raises(UndecodableError, match=r"floating-point samples outside 0 to 1: save it with 8 or"):
        decode(path)
    path = saved(tmp_path, "b.tif", Image.fromarray(np.full((8, 8), -70000, np.int32)))
    with pytest.raises(UndecodableError, match=r"32-bit samples of unclear range \(-70000 to -70000\)"):
        decode(path)


def test_a_damaged_png_checksum(tmp_path: Path) -> None:
    data = bytearray(encoded("PNG"))
    data[60] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UndecodableError, match=r"^is damaged"):
        decode(tmp_path / "a.png")


def test_heic_without_its_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "a.heic", quarters())
    Image.init()
    monkeypatch.delitem(Image.OPEN, "HEIF")
    with pytest.raises(UndecodableError, match=r"^is a HEIC image: to read those, pip install pillow-heif$"):
        decode(path)


def test_large_photos_pass_and_bombs_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    assert decode(saved(tmp_path, "a.png", quarters(96, 64))).image.size == (96, 64)  # Pillow only warns
    with pytest.raises(UndecodableError, match=r"^has more pixels than is safe to decode"):
        decode(saved(tmp_path, "b.png", quarters(96, 96)))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(UndecodableError, match=r"^cannot be opened \(No such file or directory\)$"):
        decode(tmp_path / "link.jpg")
    path = saved(tmp_path, "secret.jpg", quarters())
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may read everything
        with pytest.raises(UndecodableError, match=r"^cannot be opened \(Permission denied\)$"):
            decode(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF"])
def test_damage_anywhere_gives_a_picture_or_a_sentence(tmp_path: Path, form: str) -> None:
    """Cut short or altered at random, no file may raise anything else, nor warn."""
    whole = encoded(form)
    chance = np.random.default_rng(2)
    refused = 0
    for trial in range(60):
        data = bytearray(whole)
        if trial % 2:
            data = data[: chance.integers(1, len(data))]
        else:
            for place in chance.integers(0, min(len(data), 400 if trial % 4 else len(data)), 6):
                data[place] = chance.integers(256)
        (tmp_path / "a").write_bytes(data)
        try:
            assert decode(tmp_path / "a").image.mode == "RGB"
        except UndecodableError:
            refused += 1
    assert refused >= 10


def test_all_decoders_are_there() -> None:
    Image.init()
    assert features.check("avif")
    assert pillow_heif.__version__
    assert set(FORMATS) <= set(Image.OPEN)
