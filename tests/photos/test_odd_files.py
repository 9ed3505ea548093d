"""Folders as they come: what is no photograph is named, and a cache that is damaged is computed again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lightning_drift.common.errors import UserError
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.photos.near_duplicates import alike
from lightning_drift.stable_diffusion.loading import load_stable_diffusion


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.effect_noise((64, 64), 90 + index).convert("RGB").save(folder / f"{index}.png")
    return folder


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("gone"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a folder's pipe": lambda path: (os.mkfifo(path.parent / ".pipe"), path.symlink_to(".pipe")),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_file_is_named(name: str, photos: Path) -> None:
    ODD[name](photos / "x.jpg")
    with pytest.raises(UserError, match=r"1 of 3 photos in .* cannot be used; .*\n  x\.jpg (is|cannot)"):
        InstanceImages(str(photos), resolution=64).setup("fit")


def test_a_name_with_control_characters_is_one_line(photos: Path) -> None:
    (photos / "x\n\x1b[2J.jpg").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        InstanceImages(str(photos), resolution=64).setup("fit")
    assert str(caught.value).splitlines()[1:] == ["  x\\n\\x1b[2J.jpg is empty (0 bytes)"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("resolution", 2**20), ("batch_size", 2**31), ("num_workers", 10**6), ("seed", 2**64)],
)
def test_options_have_upper_bounds(option: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"^data\.{option}: {value} is out of range"):
        InstanceImages(**{option: value})  # type: ignore[arg-type]


def test_a_strip_is_not_resized_to_gigabytes(photos: Path) -> None:
    Image.new("RGB", (60_000, 2)).save(photos / "strip.png")
    with pytest.raises(UserError, match=r"strip\.png is 60000x2, too long and narrow for random crops"):
        InstanceImages(str(photos), resolution=512, allow_small=True, crop="random").setup("fit")


def test_thousands_of_photos_are_compared_in_a_moment() -> None:
    looks = np.random.default_rng(0).random((3000, 63)) < 0.5
    looks[2999] = looks[7]
    looks[2999, :3] ^= True
    exact, near = alike([b"%d" % index for index in range(3000)], list(looks))
    assert exact == []
    assert near == [[7, 2999]]


def spoil(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], object]:
    return lambda file: save_file({n: t.contiguous() for n, t in change(load_file(file)).items()}, file)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "another size": spoil(lambda t: {name: tensor[..., ::2] for name, tensor in t.items()}),
    "another number": spoil(lambda t: {name: tensor[:1] for name, tensor in t.items()}),
    "integers": spoil(lambda t: {name: tensor.int() for name, tensor in t.items()}),
    "half precision": spoil(lambda t: {name: tensor.half() for name, tensor in t.items()}),
    "NaN": spoil(lambda t: {"mean": t["mean"] * torch.nan, "std": t["std"]}),
    "infinity": spoil(lambda t: {"mean": t["mean"], "std": t["std"] / 0}),
    "negative deviations": spoil(lambda t: {"mean": t["mean"], "std": -t["std"]}),
    "another name": spoil(lambda t: {"mean": t["mean"], "deviation": t["std"]}),
    "one more": spoil(lambda t: t | {"more": t["std"].clone()}),
    "random bytes": lambda file: file.write_bytes(b"\xff" * 999),
    "empty": lambda file: file.write_bytes(b""),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "folder": lambda file: (file.unlink(), file.mkdir()),
    "link to itself": lambda file: (file.unlink(), file.symlink_to(file.name)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_cache_is_computed_again(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae: Any = load_stable_diffusion("pocket").vae
    cache = tmp_path / "cache"

    def encoded() -> tuple[torch.Tensor, torch.Tensor]:
        data = InstanceImages(str(photos), resolution=64, cache_dir=str(cache))
        data.encode(vae, torch.device("cpu"))
        assert data._posteriors is not None
        return data._posteriors

    first = encoded()
    (file,) = cache.iterdir()
    DAMAGE[name](file)
    capsys.readouterr()
    again = encoded()
    said = [line for line in capsys.readouterr().err.splitlines() if "photos again" in line]
    assert len(said) == 1
    assert str(file) in said[0]
    assert all(map(torch.equal, first, again))


def test_a_cache_that_may_not_be_read_is_done_without(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae: Any = load_stable_diffusion("pocket").vae
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0)
    data = InstanceImages(str(photos), resolution=64, cache_dir=str(cache))
    data.setup("fit")
    capsys.readouterr()
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may read everything
        data.encode(vae, torch.device("cpu"))
    finally:
        os.seteuid(user)
        cache.chmod(0o700)
    assert capsys.readouterr().err.count("lightning-drift: ") == 1
    assert data._posteriors is not None
