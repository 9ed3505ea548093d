"""Prints on paper: exact pixels, what is shown where, resolution and profile as other programs read them."""

from io import BytesIO

import numpy as np
import pytest
import pyvips
from helpers.supir.running import opened, photo, pixels, predict, upscaler
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from lightning_drift import OpenUpscaler, UpscaleImages
from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import read_source
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import write_png
from lightning_drift.images.profiles import srgb
from lightning_drift.images.tiff import write_tiff
from lightning_drift.lightning_cli import DriftCLI
from lightning_drift.prints.paper import Paper, lay


def paper(size, dpi=300.0, border="0", bleed="0", crop=True):
    return Paper.read(size, dpi, border, bleed, crop)


@pytest.mark.parametrize(
    ("size", "dpi", "pixels"),
    [
        ("10x10cm", 300, (1181, 1181)),
        ("40x40cm", 300, (4724, 4724)),
        ("16x20in", 300, (4800, 6000)),
        ("a4", 300, (2480, 3508)),
        ("210 x 297 mm", 300, (2480, 3508)),
        ("4in x 10cm", 254, (1016, 1000)),
    ],
)
def test_centimetres_become_exact_pixels(size, dpi, pixels):
    assert paper(size, dpi).size == pixels


def test_where_a_picture_lies_on_its_paper():
    square = paper("10x15cm", 254)
    sheet = square.sheet(64, 64)
    assert (sheet.size, sheet.place, sheet.picture) == ((1000, 1500), (0, 0), (1000, 1500))
    assert sheet.box == pytest.approx((64 / 6, 0, 64 - 64 / 6, 64))
    assert square.sheet(96, 64).size == (1500, 1000)  # turned
    assert square.sheet(96, 64).box == pytest.approx((0, 0, 96, 64))
    whole = paper("10x15cm", 254, crop=False).sheet(64, 64)
    assert (whole.picture, whole.place, whole.box) == ((1000, 1000), (0, 250), (0, 0, 64, 64))
    framed = paper("10x10cm", 254, border="1cm").sheet(64, 64)
    assert (framed.size, framed.place, framed.picture) == ((1000, 1000), (100, 100), (800, 800))
    bled = paper("10x10cm", 254, bleed="3mm").sheet(64, 64)
    assert (bled.size, bled.picture) == ((1060, 1060), (1060, 1060))


@given(
    st.sampled_from(["10x15cm", "a5", "7x3in"]),
    st.integers(1, 400),
    st.integers(1, 400),
    st.booleans(),
    st.sampled_from(["0", "4mm"]),
)
def test_a_picture_is_never_stretched_nor_beyond_its_paper(size, width, height, crop, border):
    sheet = paper(size, 200, border=border, crop=crop).sheet(width, height)
    left, top, right, bottom = sheet.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across, down = sheet.picture[0] / (right - left), sheet.picture[1] / (bottom - top)
    thinnest = min(sheet.picture)
    assert across == pytest.approx(down, rel=1.01 / thinnest)
    for place, picture, whole in zip(sheet.place, sheet.picture, sheet.size, strict=True):
        assert place >= 0
        assert place + picture <= whole
        assert abs(whole - picture - 2 * place) <= 1  # in the middle


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"print": "40x40"},
            "data.print: '40x40' is not a size on paper; write it as 40x30cm, 16x20in or A4",
        ),
        ({"print": "0x3cm"}, "data.print: '0x3cm' is out of range; give 1 mm to 10 m"),
        ({"print": "20x3m"}, "is not a size on paper"),
        ({"print": "1x1mm", "dpi": 20.0}, "data.dpi: 1x1mm has fewer than 8 pixels a side at 20 dpi"),
        ({"print": "a4", "dpi": 9.0}, "data.dpi: 9 is out of range; give one from 10 to 2400"),
        ({"print": "a4", "dpi": float("nan")}, "data.dpi"),
        (
            {"print": "a4", "border": "3"},
            "data.border: '3' is not a length; write it as 3mm, 1.5cm or 0.125in",
        ),
        ({"print": "10x10cm", "border": "5cm"}, "data.border: 5cm on each side leaves no room on 10x10cm"),
        (
            {"print": "a4", "border": "1cm", "bleed": "3mm"},
            "data.bleed: goes with a picture that fills the paper",
        ),
        ({"print": "a4", "crop": False, "bleed": "3mm"}, "not with data.crop false"),
        ({"bleed": "3mm"}, "data.bleed: belongs to a print; give its size with data.print"),
        ({"profile": "x.icc"}, "data.profile: belongs to a print"),
        ({"print": "a4", "profile": "missing.icc"}, "data.profile: missing.icc cannot be opened"),
    ],
)
def test_what_cannot_be_printed_is_a_sentence(tmp_path, photos, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        UpscaleImages(str(photos), **options)
    assert said in str(caught.value)


def test_other_colours_than_rgb_are_no_papers_profile(tmp_path, photos):
    (tmp_path / "lab.icc").write_bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    (tmp_path / "no.icc").write_bytes(b"nothing")
    for name in ("lab.icc", "no.icc"):
        with pytest.raises(UserError, match="is no colour profile of RGB"):
            UpscaleImages(str(photos), print="a6", profile=str(tmp_path / name))


def wide_gamut() -> bytes:
    """A profile whose primaries are not sRGB's: its red and green are changed round."""
    data = bytearray(srgb())
    count = int.from_bytes(data[128:132], "big")
    places = {bytes(data[132 + 12 * k : 136 + 12 * k]): 132 + 12 * k for k in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = (
        data[green + 4 : green + 12],
        data[red + 4 : red + 12],
    )
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_print_has_its_pixels_resolution_and_profile(tmp_path, kind):
    photo(tmp_path / "a.png", size=(40, 30))
    data = UpscaleImages(str(tmp_path / "a.png"), print="2x1.5cm", dpi=300.0, border="1mm")
    writer = ImageWriter(str(tmp_path / "out"), kind, contact_sheet=False)
    predict(OpenUpscaler(), data, tmp_path / "out", writer=writer)
    path = writer.written[0]
    image = opened(path)
    assert image.size == (236, 177)
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert image.info["icc_profile"] == srgb()
    other = pyvips.Image.new_from_file(str(path))  # another program than the one that wrote a PNG
    assert (other.width, other.height) == (236, 177)
    assert (other.xres * 25.4, other.yres * 25.4) == pytest.approx((300, 300), abs=0.01)
    assert bytes(other.get("icc-profile-data")) == srgb()
    levels = np.asarray(image)
    assert (levels[:12] == 255).all()
    assert (levels[:, -12:] == 255).all()
    assert (levels[12:-12, 12:-12] < 255).any()
    again = ImageWriter(str(tmp_path / "out"), kind, contact_sheet=False)
    predict(OpenUpscaler(), data, tmp_path / "out", writer=again)
    assert (again.written, again.skipped) == ([], [path])


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_go_the_whole_way(tmp_path, kind):
    """A source of 16 bits is read with all of them and printed with as many; at 8 bits steps would show."""
    ramp = np.linspace(20000, 21000, 48 * 48).reshape(48, 48, 1).repeat(3, 2).astype(np.uint16)
    small = Image.fromarray((ramp >> 8).astype(np.uint8))
    write = {"png": write_png, "tiff": write_tiff}[kind]
    path = tmp_path / f"a.{'png' if kind == 'png' else 'tif'}"
    write(path, Picture(None, "a", small, {"parameters": "p"}, deep=ramp))
    source = read_source(path)
    assert source.deep is not None
    assert np.array_equal(source.deep, ramp)
    writer = ImageWriter(str(tmp_path / "out"), kind, contact_sheet=False)
    predict(OpenUpscaler(), UpscaleImages(str(path), print="1x1cm"), tmp_path / "out", writer=writer)
    printed = read_source(writer.written[0]).deep
    assert printed is not None
    assert len(np.unique(printed)) > 1000
    eight = ImageWriter(str(tmp_path / "eight"), kind, contact_sheet=False)
    predict(OpenUpscaler(), UpscaleImages(str(path), print="1x1cm", bits=8), tmp_path / "eight", writer=eight)
    flat = read_source(eight.written[0])
    assert flat.deep is None
    assert np.abs(np.asarray(flat.image) * 257.0 - printed).max() <= 129


def test_colours_go_into_the_papers_profile(tmp_path):
    photo(tmp_path / "a.png", size=(40, 40))
    (tmp_path / "paper.icc").write_bytes(wide_gamut())
    plain = predict(OpenUpscaler(), UpscaleImages(str(tmp_path / "a.png"), print="1x1cm"), tmp_path / "plain")
    data = UpscaleImages(str(tmp_path / "a.png"), print="1x1cm", profile=str(tmp_path / "paper.icc"))
    changed = predict(OpenUpscaler(), data, tmp_path / "changed")
    image, before = opened(changed.written[0]), opened(plain.written[0])
    assert image.info["icc_profile"] == wide_gamut()
    profiles = [ImageCms.ImageCmsProfile(BytesIO(data)) for data in (wide_gamut(), srgb())]
    back = ImageCms.profileToProfile(image, *profiles)
    assert np.abs(np.asarray(image, int) - np.asarray(before, int)).max() > 30
    inside = (np.asarray(image) > 0).all(2) & (np.asarray(image) < 255).all(2)
    assert np.abs(np.asarray(back, int) - np.asarray(before, int))[inside].max() <= 3


def test_transparent_parts_of_a_print_show_the_paper(tmp_path):
    photo(tmp_path / "a.png", size=(40, 40), mode="RGBA")
    levels = pixels(tmp_path / "a.png").copy()
    levels[:, :20, 3], levels[:, 20:, 3] = 0, 255
    Image.fromarray(levels).save(tmp_path / "a.png")
    data = UpscaleImages(str(tmp_path / "a.png"), print="1x1cm")
    image = opened(predict(OpenUpscaler(), data, tmp_path / "out").written[0])
    assert image.mode == "RGB"
    assert (np.asarray(image)[:, :50] == 255).all()
    assert (np.asarray(image)[:, 70:] < 255).any()


def test_paper_is_laid_with_either_number_of_bits():
    sheet = paper("1x1in", 10, border="0").sheet(5, 10)
    assert sheet.size == (10, 10)
    sheet = paper("1x1in", 10, crop=False).sheet(5, 10)
    levels = np.full((10, 5, 3), 7, np.uint16)
    laid = lay(levels, np.full((10, 5), 255, np.uint8), sheet)
    assert laid.dtype == np.uint16
    assert (laid[:, 2:7] == 7).all()
    assert (laid[:, :2] == 65535).all()


def test_several_passes_go_on_where_a_run_was_stopped_and_repeat_to_the_bit(models, tmp_path):
    for name in "ab":
        photo(tmp_path / "in" / f"{name}.png", size=(24, 24), seed=ord(name))
    data = UpscaleImages(str(tmp_path / "in"), print="1x1cm", dpi=450.0, bits=16)
    first = predict(upscaler(models, min_size=64), data, tmp_path / "out")
    assert "Passes: 2" in opened(first.written[0]).info["parameters"]
    deep = read_source(first.written[0]).deep
    assert deep is not None
    assert (deep % 257 != 0).any()  # more than 8 bits
    kept, lost = (path.read_bytes() for path in first.written)
    first.written[1].unlink()
    again = predict(upscaler(models, min_size=64), data, tmp_path / "out")
    assert [path.name for path in again.skipped] == ["a.png"]
    assert [path.read_bytes() for path in first.written] == [kept, lost]


def test_a_command_holds_no_finished_picture(tmp_path):
    """The Trainer returns predictions unless it is told not to: with large prints that is all the memory."""
    photo(tmp_path / "a.png", size=(24, 24))
    cli = DriftCLI(
        [
            *("predict", "--model=lightning_drift.OpenUpscaler", "--data=lightning_drift.UpscaleImages"),
            *("--data.print=1x1cm", "--trainer.accelerator=cpu", f"--data.images={tmp_path / 'a.png'}"),
            f"--image_writer.output_dir={tmp_path / 'out'}",
        ]
    )
    assert (tmp_path / "out" / "a.png").is_file()
    assert not cli.trainer.predict_loop.predictions
