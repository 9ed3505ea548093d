"""Sizes and pixels: what becomes of a picture before and after the networks."""

import numpy as np
import pytest
import torch
from helpers.supir.running import photo
from PIL import Image, ImageCms

from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import read_source
from lightning_drift.prints.sizes import Sizing, to_image, to_tensor


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


def test_frames():
    essay = Sizing(4.0).frame(512, 512)
    assert essay.output == essay.work == essay.padded == (2048, 2048)
    odd = Sizing(4.0, min_size=64).frame(301, 203)
    assert (odd.output, odd.work, odd.padded) == ((1204, 812), (1204, 812), (1216, 832))
    small = Sizing(2.0).frame(100, 50)
    assert small.output == (200, 100)
    assert small.work == (2048, 1024)
    # The reference: 1056 rounds half to even, down to 1024.
    assert Sizing(1.0, reference=True).frame(1056, 1024).work == (1024, 1024)
    assert Sizing(1.0, reference=True).frame(1000, 1500).output == (1000, 1500)
    with pytest.raises(UserError, match="megapixels; lower"):
        Sizing(4.0).frame(20000, 20000)
    with pytest.raises(
        UserError, match="1x80 pixels would be processed at 1024x81920, more than 33 megapixels"
    ):
        Sizing(4.0).frame(1, 80)
    assert Sizing(4.0, min_size=256).frame(1, 80).work == (256, 20480)


def test_pixels_survive_the_way_there_and_back():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8))
    sizes = Sizing(1.0, min_size=32).frame(70, 45)
    tensor = to_tensor(image, sizes)
    assert tensor.shape == (3, 64, 96)
    assert torch.equal(tensor[:, 45:], tensor[:, 25:44].flip(1))
    assert np.array_equal(np.asarray(to_image(tensor, sizes)), np.asarray(image))
    assert to_image(tensor * 0 + 5, sizes).getpixel((0, 0)) == (255, 255, 255)


def test_the_reference_truncates_where_we_round():
    sizes = Sizing(1.0, min_size=32).frame(32, 32)
    value = torch.full((3, 32, 32), 100.7 / 127.5 - 1)
    assert to_image(value, sizes).getpixel((0, 0))[0] == 101
    assert to_image(value, Sizing(1.0, 64, True).frame(64, 64)).getpixel((0, 0))[0] == 100
