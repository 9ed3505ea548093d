"""Held-out photos: which they are, that they are never trained on, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageEnhance

from lightning_drift.assets import PHOTOS
from lightning_drift.common.errors import UserError
from lightning_drift.photos.held_out import chosen
from lightning_drift.photos.instance_images import InstanceImages


def images_of(folder: Path | str, **options: Any) -> InstanceImages:
    return InstanceImages(str(folder), **({"resolution": 64, "cache_dir": None} | options))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    shutil.copytree(PHOTOS / "coffee", folder)
    return folder


def split(data: InstanceImages) -> tuple[list[str], list[str]]:
    data.setup("fit")
    return [photo.path.name for photo in data._photos], [photo.path.name for photo in data._held_out]


def test_a_number_is_a_function_of_the_seed_and_the_names(photos: Path) -> None:
    trained, held_out = split(images_of(photos, held_out=2))
    assert sorted(trained + held_out) == sorted(path.name for path in photos.iterdir())
    assert (len(trained), len(held_out)) == (6, 2)
    # The same whatever is in the files, and one more is one of these and another.
    Image.radial_gradient("L").save(photos / held_out[0])
    assert split(images_of(photos, held_out=2))[1] == held_out
    assert set(held_out) < set(split(images_of(photos, held_out=3))[1])
    assert len({tuple(split(images_of(photos, held_out=2, seed=seed))[1]) for seed in range(6)}) > 3
    names = [f"{number}.jpg" for number in range(9)]
    before, after = (
        {each[index] for index in chosen(each, 2, seed=1)} for each in (names, [*names, "new.jpg"])
    )
    assert len(after - before) <= 1
    # Each photo is held out by some seed, about as often as any other.
    counts = torch.bincount(torch.tensor([i for seed in range(300) for i in chosen(names, 3, seed)]))
    assert counts.sum() == 900
    assert 65 < counts.min() <= counts.max() < 140


def test_what_is_held_out_is_in_no_batch_and_in_no_hash_of_the_training_set(photos: Path) -> None:
    data = images_of(photos, held_out=3)
    trained, held_out = split(data)
    assert (data.count, data.held_out_count) == (5, 3)
    assert (len(data.images()), len(data.squares()), len(data.held_out_squares())) == (5, 5, 3)
    seen = {index for number in range(20) for index in data.stream(0, 0, 1).batch(number)["index"]}
    assert seen == set(range(5))
    for name in held_out:
        (photos / name).unlink()
    without = images_of(photos)
    assert split(without) == (trained, [])
    assert without.data_hash == data.data_hash
    assert without.held_out_squares() == []
    batches = (each.stream(0, 0, 1).batch(4)["pixel_values"] for each in (data, without))
    assert torch.equal(*batches)


def test_a_folder_of_others_leaves_the_photos_alone(photos: Path) -> None:
    data, without = images_of(photos, held_out="nautilus"), images_of(photos)
    assert split(data)[0] == split(without)[0]
    assert len(data.held_out_squares()) == 8
    assert data.data_hash == without.data_hash
    assert data.held_out_squares()[0].size == (64, 64)


@pytest.mark.parametrize("number", [8, 9, 10**6])
def test_a_photo_must_be_left_to_train_on(number: int) -> None:
    with pytest.raises(
        UserError, match=f"{number} of 8 photos held out would leave none.*give 7 or less"
    ) as e:
        images_of("coffee", held_out=number).setup("fit")
    assert e.value.option == "data.held_out"


@pytest.mark.parametrize("number", [-1, True, 1.5])
def test_a_number_that_is_none_is_refused(number: Any) -> None:
    with pytest.raises(UserError) as error:
        images_of("coffee", held_out=number)
    assert error.value.option == "data.held_out"


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_folder_that_is_none_is_named_with_its_option(what: str, tmp_path: Path) -> None:
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    elif what == "file":
        folder.write_text("x")
    with pytest.raises(UserError) as error:
        images_of("coffee", held_out=str(folder)).setup("fit")
    assert error.value.option == "data.held_out"
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("change", ["copy", "smaller", "brighter"])
def test_a_held_out_photo_that_is_trained_on_is_refused(change: str, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    picture = Image.open(PHOTOS / "coffee" / "03.jpg").convert("RGB")
    if change == "smaller":
        picture = picture.resize((picture.width // 2, picture.height // 2))
    elif change == "brighter":
        picture = ImageEnhance.Brightness(picture).enhance(1.2)
    picture.save(others / "mine.png")
    shutil.copy(PHOTOS / "nautilus" / "01.jpg", others / "other.jpg")
    with pytest.raises(UserError, match="must not be trained on") as error:
        images_of("coffee", held_out=str(others)).setup("fit")
    assert list(error.value.details) == ["mine.png is the same picture as 03.jpg"]
    (others / "mine.png").unlink()
    images_of("coffee", held_out=str(others)).setup("fit")


def test_two_files_of_one_picture_are_not_parted(photos: Path) -> None:
    _, (held_out, _) = split(images_of(photos, held_out=2))
    shutil.copy(photos / held_out, photos / "zz.jpg")
    with pytest.raises(UserError, match="must not be trained on"):
        images_of(photos, held_out=2).setup("fit")
