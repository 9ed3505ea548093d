"""Contact sheets: whole pictures, in order, with labels that fit."""

import numpy as np
import pytest
from PIL import Image

from lightning_drift.images.contact_sheet import GROUND, contact_sheet


def picture(seed: int, width: int = 200, height: int = 200) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(30, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def find(sheet: Image.Image, part: Image.Image) -> tuple[int, int] | None:
    """Where a picture lies in a sheet, pixel for pixel."""
    whole, wanted = np.asarray(sheet), np.asarray(part)
    for y, x in np.argwhere((whole == wanted[0, 0]).all(2)):
        if np.array_equal(whole[y : y + part.height, x : x + part.width], wanted):
            return int(x), int(y)
    return None


@pytest.mark.parametrize("count", [1, 2, 5, 7, 8, 13])
def test_every_picture_is_there_whole_and_in_order(count: int) -> None:
    pictures = [picture(index) for index in range(count)]
    sheet = contact_sheet(pictures, captions=[f"{index:02d}.jpg" for index in range(count)])
    places = [find(sheet, image) for image in pictures]
    assert None not in places
    assert places == sorted(places, key=lambda place: (place[1], place[0]))
    assert len(set(places)) == count


def test_eight_lie_four_by_two() -> None:
    sheet = contact_sheet([picture(index) for index in range(8)])
    places = [find(sheet, picture(index)) for index in range(8)]
    assert len({x for x, _ in places}) == 4
    assert len({y for _, y in places}) == 2


def test_labels_are_written_and_touch_no_picture() -> None:
    pictures = [picture(index) for index in range(6)]
    plain = contact_sheet(pictures, per_row=3)
    prompt = "monumental, dramatic, atmospheric, transcendent " * 20
    labelled = contact_sheet(
        pictures,
        rows=[prompt, "short"],
        columns=["seed 0", "1", "2"],
        title="step 800",
        captions=["x" * 400] * 6,
    )
    assert labelled.width == plain.width
    assert labelled.height > plain.height
    places = [find(labelled, image) for image in pictures]
    assert None not in places
    ink = np.asarray(labelled).astype(int).max(2) > max(GROUND) + 60
    for (x, y), image in zip(places, pictures, strict=True):
        ink[y : y + image.height, x : x + image.width] = False
    top = min(y for _, y in places)
    assert ink[:top].any()
    assert ink[max(y for _, y in places) + 200 :].any()
    left, right = min(x for x, _ in places), max(x for x, _ in places) + 200
    assert not ink[:, :left].any()
    assert not ink[:, right:].any()


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    small = picture(0, 64, 64)
    sheet = contact_sheet([small])
    assert find(sheet, small.resize((192, 192), Image.Resampling.NEAREST)) is not None


def test_pictures_of_several_sizes_are_centred() -> None:
    wide, high = picture(0, 240, 200), picture(1, 200, 260)
    sheet = contact_sheet([wide, high], per_row=2)
    (wide_x, wide_y), (high_x, high_y) = find(sheet, wide), find(sheet, high)
    assert wide_y - high_y == 30
    assert high_x - wide_x == 240 + 6 + 20


def test_cell_shrinks_large_pictures_only() -> None:
    sheet = contact_sheet([picture(0, 800, 400), picture(1, 256, 256)], cell=256)
    assert find(sheet, picture(1, 256, 256)) is not None
    assert sheet.width < 600


def test_labels_that_do_not_fit_the_pictures() -> None:
    with pytest.raises(ValueError, match="2 columns for 6 pictures, 3 in a row"):
        contact_sheet([picture(0)] * 6, columns=["a", "b"], per_row=3)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
