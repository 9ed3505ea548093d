"""What lies where a dream goes and is no dream of ours: it stays, and the dream gets another name."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.picture import parameters_digest

TEXT = {"parameters": "a tree"}
ODD: dict[str, Callable[[Path], object]] = {
    "bomb": lambda path: Image.new("1", (20_000, 20_000)).save(path),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("gone"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
    "text": lambda path: path.write_text("a diary"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_dream_goes_beside_what_is_none(name: str, tmp_path: Path) -> None:
    ODD[name](tmp_path / "a.png")
    expected = tmp_path / f"a_{parameters_digest('a tree')}.png"
    assert ImageWriter(str(tmp_path)).path("a", TEXT) == (expected, False)


def test_a_dream_that_was_damaged_since_leaves_a_gap_in_the_sheet(tmp_path: Path) -> None:
    writer = ImageWriter(str(tmp_path))
    entries = {("", "1"): tmp_path / "1.png", ("", "2"): tmp_path / "2.png"}
    Image.new("RGB", (64, 64), "red").save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"damaged")
    writer._write_sheet(entries)
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 128
