"""What stands among the images to upscale and is none: it is named, and the others are made."""

import os
from pathlib import Path

import pytest
from PIL import Image

from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import UndecodableError, read_source
from lightning_drift.prints.images import UpscaleImages


def test_what_is_no_file_is_among_the_requests_and_is_not_opened(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    (tmp_path / "d.png").symlink_to("d.png")
    data = UpscaleImages(str(tmp_path), seed=-1).predict_dataloader().dataset
    requests = [data[index] for index in range(4)]
    assert [request.name for request in requests] == ["a", "b", "c", "d"]
    assert [bool(request.content) for request in requests] == [True, False, False, False]
    for request in requests[1:]:
        with pytest.raises(UndecodableError, match=r"is a pipe|cannot be opened"):
            read_source(request.path)


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a.tiles.txt"])
def test_a_pipe_that_is_named_or_stands_for_a_caption_is_a_sentence(name: str, tmp_path: Path) -> None:
    if name != "a.png":
        Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"^data\.\w+: .*{name} is a pipe, a device or a socket and no file"):
        UpscaleImages(str(tmp_path / "a.png"))


@pytest.mark.parametrize("option", ["num_samples", "batch_size", "seed"])
def test_options_have_upper_bounds(option: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^data\.{option}: .* is out of range"):
        UpscaleImages(str(tmp_path), **{option: 2**64})  # type: ignore[arg-type]


def test_no_image_at_all_is_a_sentence() -> None:
    for images in ([], "", "a\0b"):
        with pytest.raises(UserError, match=r"^data\.images: "):
            UpscaleImages(images)
