"""Sizes and pixels: what becomes of a picture before and after the networks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.supir.running import photo
from PIL import Image, ImageCms

from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import read_source
from lightning_drift.prints.sizes import Sizing, to_deep, to_image, to_pixels, to_tensor


def test_source_modes(tmp_path):
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    palette.info["transparency"] = 0
    palette.save(tmp_path / "p.png", transparency=0)
    source = read_source(tmp_path / "p.png")
    assert source.image.getpixel((0, 0)) == (200, 10, 10)
    assert source.alpha is not None
    assert source.alpha.getpixel((0, 0)) == 255
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    deep = read_source(tmp_path / "deep.png")
    assert deep.image.getpixel((0, 0)) == (round(40000 / 257),) * 3
    assert deep.alpha is None
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    photo(tmp_path / "odd.png", icc_profile=lab)
    assert read_source(tmp_path / "odd.png").icc_profile is None


def test_profiled_grey_becomes_srgb_with_and_without_transparency(tmp_path):
    """A grey profile of gamma 1.0: linear 55 is sRGB's 128."""
    linear = grey_profile()
    for mode, value in (("L", 55), ("LA", (55, 200))):
        Image.new(mode, (8, 8), value).save(tmp_path / f"{mode}.png", icc_profile=linear)
        source = read_source(tmp_path / f"{mode}.png")
        assert source.icc_profile is None
        assert source.image.getpixel((0, 0)) == pytest.approx((128,) * 3, abs=2)
        assert (source.alpha is not None) == (mode == "LA")


def grey_profile():
    """An ICC profile of grey, gamma 1.0, written out: header, tag table, white point and curve."""
    import struct

    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    copyright_ = b"text" + bytes(4) + b"none\0"
    tags, body = [], b""
    for name, data in ((b"desc", text), (b"cprt", copyright_), (b"wtpt", white), (b"kTRC", curve)):
        data += bytes(-len(data) % 4)
        tags.append((name, 128 + 4 + 4 * 12 + len(body), len(data)))
        body += data
    table = struct.pack(">I", len(tags)) + b"".join(n + struct.pack(">II", o, s) for n, o, s in tags)
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02200000, b"mntr", b"GRAY", b"XYZ ") + bytes(12)
    header += b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


def frame(width, height, upscale, **sizing):
    (only,) = Sizing(upscale, **sizing).frames((width, height))
    return only


def test_frames():
    essay = frame(512, 512, 4.0)
    assert essay.output == essay.work == essay.padded == (2048, 2048)
    odd = frame(301, 203, 4.0, min_size=64)
    assert (odd.output, odd.work, odd.padded) == ((1204, 812), (1204, 812), (1216, 832))
    small = frame(100, 50, 2.0)
    assert small.output == (200, 100)
    assert small.work == (2048, 1024)
    # The reference: 1056 rounds half to even, down to 1024.
    assert frame(1056, 1024, 1.0, reference=True).work == (1024, 1024)
    assert frame(1000, 1500, 1.0, reference=True).output == (1000, 1500)
    with pytest.raises(UserError, match="megapixels; lower"):
        frame(20000, 20000, 4.0)
    with pytest.raises(
        UserError, match="1x80 pixels would be processed at 1024x81920, more than 33 megapixels"
    ):
        frame(1, 80, 4.0)
    assert frame(1, 80, 4.0, min_size=256).work == (256, 20480)


def test_passes_are_even_and_begin_where_the_networks_can():
    def outputs(width, upscale, **sizing):
        return [each.output[0] for each in Sizing(upscale, **sizing).frames((width, width))]

    assert outputs(512, 4.0) == [2048]
    assert outputs(512, 9.2266) == [1555, 4724]
    assert outputs(512, 9.2266, passes=1) == [4724]
    assert outputs(512, 9.2266, passes=3) == [1074, 2252, 4724]
    assert outputs(64, 1181 / 64, min_size=256) == [256, 550, 1181]
    assert outputs(64, 12.0, min_size=256) == [256, 768]
    assert outputs(100, 5.0) == [500]  # what `min_size` enlarges at once needs no second pass
    assert outputs(512, 9.2266, reference=True) == [4724]
    for scale in (4.01, 6.0, 11.0, 16.0, 40.0):
        frames = Sizing(scale, min_size=64).frames((120, 80))
        assert frames[-1].output == (round(120 * scale), round(80 * scale))
        for before, after in pairwise([(120, 80), *(each.output for each in frames)]):
            assert after[0] / before[0] <= 4.03


def test_a_region_is_made_with_what_is_around_it_through_all_passes():
    sizing = Sizing(9.2266, min_size=1024)
    whole = sizing.frames((512, 512))
    first, last = sizing.frames((512, 512), region=(4224, 100, 4724, 600))
    assert last.output == (1024, 1024)
    assert last.crop == (524, 100, 1024, 600)
    # The last pass's square, in pixels of the pass before, lies within what that made.
    scale = whole[0].output[0] / whole[1].output[0]
    assert last.box == pytest.approx((3700 * scale - 531, 0, 4724 * scale - 531, 1024 * scale))
    assert first.output == (1024, 1024)
    assert first.source == pytest.approx((531 * 512 / 1555, 0, 512, 1024 * 512 / 1555))


def test_pixels_survive_the_way_there_and_back():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8))
    sizes = frame(70, 45, 1.0, min_size=32)
    tensor = to_tensor(image, sizes, sizes.box)
    assert tensor.shape == (3, 64, 96)
    assert torch.equal(tensor[:, 45:], tensor[:, 25:44].flip(1))
    assert np.array_equal(np.asarray(to_image(to_pixels(tensor, sizes))), np.asarray(image))
    assert to_image(to_pixels(tensor * 0 + 5, sizes)).getpixel((0, 0)) == (255, 255, 255)
    assert np.array_equal(to_deep(to_pixels(tensor, sizes)), np.asarray(image, np.uint16) * 257)


def test_the_reference_truncates_where_we_round():
    value = torch.full((3, 32, 32), 100.7 / 127.5 - 1)
    assert to_image(value).getpixel((0, 0))[0] == 101
    assert to_image(value, reference=True).getpixel((0, 0))[0] == 100
