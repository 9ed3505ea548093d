"""InstanceImages: what is read, refused, cropped, encoded, and in which order it comes."""

import itertools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.overlap import write_meanwhile
from lightning.pytorch import LightningModule, Trainer
from PIL import Image, ImageEnhance
from torch import Tensor, nn

from lightning_drift.assets import PHOTOS
from lightning_drift.common.errors import UserError
from lightning_drift.common.modules import weights_hash
from lightning_drift.common.rng import generator
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.photos.near_duplicates import alike, perceptual_hash, pixel_digest
from lightning_drift.stable_diffusion.autoencoder import to_pixel_values
from lightning_drift.stable_diffusion.loading import load_stable_diffusion


def noise(seed: int, width: int = 80, height: int = 64) -> Image.Image:
    """A smooth random picture, unlike that of any other seed."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        noise(index, 80 + 8 * index, 64).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def vae() -> Any:
    return load_stable_diffusion("pocket").vae


def images_of(folder: Path | str, **options: Any) -> InstanceImages:
    return InstanceImages(str(folder), **({"resolution": 64, "cache_dir": None} | options))


def take(stream: Any, count: int) -> list[dict[str, Tensor]]:
    return list(itertools.islice(iter(stream), count))


def equal(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys()
        and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
        for a, b in zip(one, other, strict=True)
    )


# What is read


def test_only_pictures_are_read_in_the_order_of_their_names(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", "0.txt", "metadata.json", "0.caption"):
        (photos / name).write_bytes(b"x")
    (photos / "__MACOSX").mkdir()
    (photos / "folder.png").mkdir()
    shutil.copy(photos / "0.png", photos / "3b.PNG")
    noise(9).save(photos / "3b.PNG", "PNG")
    data = images_of(photos)
    data.setup("fit")
    assert [photo.path.name for photo in data._photos] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "3b.PNG",
        "4.png",
    ]
    assert capsys.readouterr().err == ""


def test_files_of_other_kinds_are_said(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "a.cr2").write_bytes(b"raw")
    (photos / "b.gif").write_bytes(b"GIF89a")
    images_of(photos).setup("fit")
    kinds = "png jpg jpeg webp bmp avif tif tiff heic heif"
    line = f"lightning-drift: not read in {photos}: a.cr2, b.gif (photos end in {kinds})\n"
    assert capsys.readouterr().err == line


def test_all_bad_photos_are_named_at_once(photos: Path) -> None:
    (photos / "a.jpg").write_bytes(b"")
    (photos / "b.jpg").write_bytes(b"<html>404</html>")
    noise(7, 63, 200).save(photos / "c.png")
    with pytest.raises(UserError) as caught:
        images_of(photos).setup("fit")
    assert str(caught.value) == (
        f"3 of 8 photos in {photos} cannot be used; mend or remove them:\n"
        "  a.jpg is empty (0 bytes)\n"
        "  b.jpg is a web page, not an image (a download that went wrong?)\n"
        "  c.png is 63x200, its short side below 64 (data.allow_small enlarges it)"
    )


def test_small_photos_on_request(photos: Path) -> None:
    noise(7, 20, 30).save(photos / "c.png")
    assert images_of(photos, allow_small=True).images()[-1].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda path: None, "there is no folder {path}, nor a bundled set of that name ("),
        (lambda path: path.write_text("x"), "{path} is a file; give the folder that holds the photos"),
        (
            lambda path: path.mkdir(),
            "{path} has no photos in it (files that end in png jpg jpeg webp bmp avif tif tiff heic heif)",
        ),
    ],
)
def test_no_folder_no_photos(tmp_path: Path, prepare: Any, sentence: str) -> None:
    path = tmp_path / "photos"
    prepare(path)
    with pytest.raises(UserError) as caught:
        images_of(path).setup("fit")
    assert str(caught.value).startswith("data.instance_dir: " + sentence.format(path=path))


def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "locked" / "photos"
    folder.mkdir(parents=True)
    user = os.geteuid()
    try:
        for locked in (folder, folder.parent):
            locked.chmod(0)
            if user == 0:
                os.seteuid(65534)  # root may read everything
            with pytest.raises(UserError) as caught:
                images_of(folder).setup("fit")
            assert str(caught.value) == f"data.instance_dir: {folder} cannot be read (Permission denied)"
            os.seteuid(user)
    finally:
        os.seteuid(user)
        folder.parent.chmod(0o700)


def test_a_bundled_name_means_the_bundled_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "coffee").mkdir()
    noise(0).save(tmp_path / "coffee" / "mine.png")
    monkeypatch.chdir(tmp_path)
    assert len(images_of("coffee").images()) == 8
    line = "lightning-drift: coffee is read as the bundled set; for your folder write ./coffee\n"
    assert capsys.readouterr().err == line
    assert len(images_of("./coffee").images()) == 1


def test_a_folder_of_folders_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "a.mov").write_bytes(b"x")
    with pytest.raises(UserError, match=r"; it holds a\.mov, train/$"):
        images_of(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"resolution": 100}, "data.resolution: 100 is not a size; give a multiple of 8"),
        ({"resolution": 0}, "data.resolution: 0 is not a size; give a multiple of 8"),
        ({"batch_size": 0}, "data.batch_size: 0 is not a number of photos; give 1 or more"),
        ({"num_workers": -1}, "data.num_workers: -1 is not a number of processes; give 0 or more"),
        (
            {"background": "teall"},
            "data.background: 'teall' is not a colour; write a name such as white, or #rrggbb",
        ),
    ],
)
def test_options_out_of_range(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        InstanceImages(**option)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", sorted(path.name for path in PHOTOS.iterdir() if path.is_dir()))
def test_bundled_sets_are_eight_good_photos(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = images_of(name, resolution=512)
    assert [image.shape for image in data.images()] == [(512, 512, 3)] * 8
    assert capsys.readouterr().err == ""
    assert f"`{name}`" in (PHOTOS / "CREDITS.md").read_text()


def test_remarks_name_their_files(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(10):
        noise(20 + index).save(photos / f"p{index}.png", icc_profile=b"broken")
    images_of(photos).setup("fit")
    shown = ", ".join(f"p{index}.png" for index in range(8))
    expected = f"{shown} and 2 more: colour profile that cannot be read, taken as sRGB"
    assert f"lightning-drift: {expected}\n" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 3, 4, 16, 17])
def test_a_count_far_from_eight_is_said(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(count):
        noise(index).save(tmp_path / f"{index:02d}.png")
    images_of(tmp_path).setup("fit")
    noun = "photo" if count == 1 else "photos"
    line = f"{tmp_path} holds {count} {noun}; the recipe's steps and learning rate suit about eight"
    expected = "" if 4 <= count <= 16 else f"lightning-drift: {line}\n"
    assert capsys.readouterr().err == expected


def test_duplicates_are_said(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = Image.open(PHOTOS / "coffee" / "04.jpg").convert("RGB")
    original.save(photos / "a.png")
    original.save(photos / "b.tif")  # other bytes, the same pixels
    original.save(photos / "c.jpg", quality=40)
    ImageEnhance.Brightness(original.resize((200, 200))).enhance(1.25).save(photos / "d.png")
    images_of(photos).setup("fit")
    assert capsys.readouterr().err.splitlines() == [
        "lightning-drift: a.png, b.tif are the same picture: it counts more than once",
        "lightning-drift: a.png, c.jpg, d.png look nearly the same: what they share weighs more",
    ]


@pytest.mark.parametrize("name", ["coffee", "galaxies"])
def test_trimmed_photos_look_the_same_and_others_do_not(name: str) -> None:
    originals = [Image.open(path).convert("RGB") for path in sorted((PHOTOS / name).glob("*.jpg"))]
    trimmed = [image.crop((5, 5, 507, 507)) for image in originals]
    both = originals + trimmed
    exact, near = alike([pixel_digest(image) for image in both], [perceptual_hash(image) for image in both])
    assert exact == []
    assert near == [[index, index + 8] for index in range(8)]


# What the model sees


@pytest.mark.parametrize(
    "size", [(64, 64), (65, 64), (64, 99), (200, 130), (131, 700), (3000, 64), (1023, 777)]
)
@pytest.mark.parametrize("resolution", [8, 64])
def test_the_short_side_becomes_the_resolution(
    tmp_path: Path, size: tuple[int, int], resolution: int
) -> None:
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    ramps = np.stack([across, down, 0 * across], 2).round().astype(np.uint8)
    Image.fromarray(ramps).save(tmp_path / "a.png")
    (centre,) = images_of(tmp_path, resolution=resolution).images()
    assert centre.shape == (resolution, resolution, 3)
    # The middle square: its mean is the ramp's middle, and its ends lie where the square's edges are.
    assert abs(centre[..., :2].float().mean() - 127.5) < 1
    half = 127.5 * min(size) * (1 - 1 / resolution) / torch.tensor(size)
    assert torch.allclose(centre[resolution // 2, -1, 0].float() - 127.5, half[0], atol=3)
    assert torch.allclose(centre[-1, resolution // 2, 1].float() - 127.5, half[1], atol=3)
    (whole,) = images_of(tmp_path, resolution=resolution, crop="random").images()
    assert min(whole.shape[:2]) == resolution
    assert abs(whole.shape[1] / whole.shape[0] - width / height) <= 0.51 * max(whole.shape) / resolution**2


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((640, 640), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    (image,) = images_of(tmp_path).images()
    assert (image[:, 1:-1].float() - 127.5).abs().max() < 1


def test_a_photo_of_the_right_size_is_left_alone(tmp_path: Path) -> None:
    noise(0, 64, 64).save(tmp_path / "a.png")
    for crop in ("center", "random"):
        assert np.array_equal(images_of(tmp_path, crop=crop).images()[0], np.asarray(noise(0, 64, 64)))


def test_pixels_run_from_minus_one_to_one(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64), (0, 255, 51))
    image.save(tmp_path / "a.png")
    (batch,) = take(images_of(tmp_path).stream(0, 0, 1), 1)
    assert batch["pixel_values"].shape == (1, 3, 64, 64)
    assert batch["pixel_values"].dtype == torch.float32
    expected = torch.tensor([-1.0, 1.0, -0.6])
    assert torch.allclose(batch["pixel_values"][0, :, 5, 7], expected)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_the_contact_sheet_shows_the_first_epoch(photos: Path, tmp_path: Path, crop: str) -> None:
    data = images_of(photos, crop=crop, seed=3)
    data.write_contact_sheet(tmp_path / "new" / "instance_images.png")
    sheet = np.asarray(Image.open(tmp_path / "new" / "instance_images.png"))
    for batch in take(data.stream(0, 0, 1), 5):
        pixels = ((batch["pixel_values"][0] + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
        index = batch["index"][0]
        x = 18 + index * 198  # five in a row, three screen pixels to one, gaps of six
        assert np.array_equal(sheet[18 : 18 + 192 : 3, x : x + 192 : 3], pixels), index


# The stream


def test_order_and_crops_follow_from_the_position_alone(photos: Path) -> None:
    data = images_of(photos, crop="random", seed=12)
    batches = take(data.stream(0, 0, 1), 15)
    assert [batch["position"][0] for batch in batches] == list(range(15))
    epochs = [[batch["index"][0] for batch in batches[start : start + 5]] for start in (0, 5, 10)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1
    for number, epoch in enumerate(epochs):
        assert epoch == torch.randperm(5, generator=generator(12, "order", number)).tolist()
    assert equal(batches[7:], take(data.stream(7, 0, 1), 8))
    assert not equal(batches[:5], take(images_of(photos, crop="random", seed=13).stream(0, 0, 1), 5))


@pytest.mark.parametrize("upright", [False, True])
def test_random_crops_reach_every_place(tmp_path: Path, upright: bool) -> None:
    ramp = np.arange(67, dtype=np.uint8)[None].repeat(64, 0)
    Image.fromarray(ramp.T if upright else ramp).save(tmp_path / "a.png")
    batches = take(images_of(tmp_path, crop="random").stream(0, 0, 1), 80)
    start = [round((float(batch["pixel_values"][0, 0, 0, 0]) + 1) * 127.5) for batch in batches]
    assert set(start) == {0, 1, 2, 3}
    assert min(start.count(place) for place in range(4)) > 8


def test_ranks_and_batches_share_one_line_of_positions(photos: Path) -> None:
    data = images_of(photos, batch_size=3)
    ranks = [take(data.stream(4, rank, 2), 5) for rank in (0, 1)]
    together = [batch["position"] for pair in zip(*ranks, strict=True) for batch in pair]
    assert list(itertools.chain(*together)) == list(range(4 * 2 * 3, 9 * 2 * 3))
    one_by_one = take(images_of(photos).stream(24, 0, 1), 30)
    joined = [batch["index"] for pair in zip(*ranks, strict=True) for batch in pair]
    assert list(itertools.chain(*joined)) == [batch["index"][0] for batch in one_by_one]


@pytest.mark.parametrize("encoded", [False, True])
def test_the_number_of_workers_changes_nothing(photos: Path, vae: Any, encoded: bool) -> None:
    streams = []
    for workers in (0, 2):
        data = images_of(
            photos, crop="center" if encoded else "random", batch_size=2, num_workers=workers, seed=5
        )
        if encoded:
            data.encode(vae, torch.device("cpu"))
        for step in (0, 3):  # from the start, and in the middle
            data.trainer = SimpleNamespace(
                global_step=step, accumulate_grad_batches=3, global_rank=1, world_size=2
            )
            streams.append(take(data.train_dataloader(), 7))
    assert equal(streams[0], streams[2])
    assert equal(streams[1], streams[3])
    assert [batch["position"] for batch in streams[1][:2]] == [[38, 39], [42, 43]]


class Watcher(LightningModule):
    """Notes the positions it is shown; its one weight follows the pictures."""

    resolution = 64

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.shown: list[tuple[int, int]] = []
        self.validated = 0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.shown.append((self.global_step, batch["position"][0]))
        return (batch["pixel_values"].mean() - self.weight) ** 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_a_fit_counts_positions_and_resumes_at_the_next(photos: Path, tmp_path: Path) -> None:
    random_state = torch.get_rng_state()
    whole, first, second = Watcher(), Watcher(), Watcher()
    trainer(max_steps=6, accumulate_grad_batches=2).fit(
        whole, images_of(photos, resolution=None, crop="random")
    )
    assert whole.shown == [(step, 2 * step + micro) for step in range(6) for micro in range(2)]
    assert whole.validated == 0

    begun = trainer(max_steps=4, accumulate_grad_batches=2)
    begun.fit(first, images_of(photos, resolution=None, crop="random"))
    begun.save_checkpoint(tmp_path / "a.ckpt")
    resumed = trainer(max_steps=6, accumulate_grad_batches=2)
    data = images_of(photos, resolution=None, crop="random", num_workers=2)
    resumed.fit(second, data, ckpt_path=tmp_path / "a.ckpt")
    assert first.shown + second.shown == whole.shown
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_validate_gets_one_item_and_needs_no_photos(tmp_path: Path) -> None:
    module = Watcher()
    trainer().validate(module, images_of(tmp_path / "gone", resolution=None), verbose=False)
    assert module.validated == 1


def test_the_resolution_is_the_models(tmp_path: Path) -> None:
    noise(0, 100, 63).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is 100x63, its short side below 64"):
        trainer(max_steps=1).fit(Watcher(), images_of(tmp_path, resolution=None))


def test_each_file_is_read_once_even_if_the_resolution_comes_late(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = images_of(photos)
    expected.setup("fit")
    reads: list[str] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    for resolution in (64, None):
        reads.clear()
        data = images_of(photos, resolution=resolution)
        data.setup("fit")
        data.resolution = 64  # as a model that is loaded by now would say
        assert all(map(torch.equal, data.images(), expected.images()))
        assert data.data_hash == expected.data_hash
        assert data.count == 5
        assert reads == [f"{index}.png" for index in range(5)]
    late = images_of(photos, resolution=None)
    late.setup("fit")
    noise(8).save(photos / "2.png")  # the pixels stay those of the hash
    late.resolution = 64
    assert torch.equal(late.images()[2], expected.images()[2])
    assert late.data_hash == expected.data_hash


# Hashes and the cache of posteriors


def test_the_data_hash_follows_content_and_settings(photos: Path, tmp_path: Path) -> None:
    first = images_of(photos).data_hash
    assert len(first) == 32
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(photos, elsewhere)
    assert images_of(elsewhere).data_hash == first
    (elsewhere / "4.png").rename(elsewhere / "5.png")  # the order stays
    assert images_of(elsewhere).data_hash == first
    (elsewhere / "5.png").rename(elsewhere / "-.png")  # the order changes
    others = [
        images_of(elsewhere),
        images_of(photos, resolution=56),
        images_of(photos, crop="random"),
        images_of(photos, background="black"),
    ]
    noise(8).save(photos / "2.png")
    hashes = [first, images_of(photos).data_hash, *(data.data_hash for data in others)]
    assert len(set(hashes)) == len(hashes)
    assert images_of(photos, seed=4, batch_size=2, background="#fff").data_hash == hashes[1]


def test_encode_gives_the_posterior_of_what_the_model_sees(photos: Path, vae: Any) -> None:
    data = images_of(photos)
    pixels = torch.stack([to_pixel_values(image) for image in data.images()])
    data.encode(vae, torch.device("cpu"))
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    for batch in take(data.stream(0, 0, 1), 5):
        assert batch.keys() == {"position", "index", "mean", "std"}
        assert batch["mean"].shape == (1, 4, 16, 16)
        torch.testing.assert_close(batch["mean"], posterior.mean[batch["index"]], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch["std"], posterior.std[batch["index"]], atol=1e-5, rtol=1e-4)


def test_encode_leaves_the_vae_as_it_was(photos: Path) -> None:
    vae = load_stable_diffusion("pocket").vae.half()
    vae.train()
    vae.decoder.eval()
    before = weights_hash(vae)
    random_state = torch.get_rng_state()
    data = images_of(photos)
    data.encode(vae, torch.device("cpu"))
    assert data._posteriors is not None
    assert data._posteriors[0].dtype == torch.float32
    assert vae.dtype == torch.float16
    assert weights_hash(vae) == before
    assert vae.encoder.training
    assert not vae.decoder.training
    assert torch.equal(torch.get_rng_state(), random_state)


class Counting:
    """Counts how often a VAE encodes."""

    def __init__(self, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, encode = 0, vae.encode

        def counted(pixels: Tensor) -> Any:
            self.calls += 1
            return encode(pixels)

        monkeypatch.setattr(vae, "encode", counted)


def test_photos_are_encoded_once_and_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vae = load_stable_diffusion("pocket").vae
    counting = Counting(vae, monkeypatch)
    cache = tmp_path / "logs" / ".posteriors"
    runs: list[tuple[Tensor, Tensor]] = []

    def encode(resolution: int = 64) -> int:
        counting.calls = 0
        data = images_of(photos, cache_dir=str(cache), resolution=resolution)
        data.encode(vae, torch.device("cpu"))
        assert data._posteriors is not None
        runs.append(data._posteriors)
        return counting.calls

    assert encode() == 5
    assert encode() == 0
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert encode(resolution=56) == 5
    assert len(list(cache.iterdir())) == 2
    file = max(cache.iterdir(), key=lambda path: path.stat().st_size)  # that of the larger resolution
    file.write_bytes(file.read_bytes()[:100])
    capsys.readouterr()
    assert encode() == 5
    assert f"{file} cannot be read" in capsys.readouterr().err
    assert encode() == 0
    assert torch.equal(runs[-1][0], runs[0][0])
    with torch.no_grad():
        next(vae.parameters()).view(-1)[0] += 1e-3
    assert encode() == 5
    noise(8).save(photos / "2.png")
    assert encode() == 5
    assert not torch.equal(runs[-1][0], runs[0][0])
    assert {path.suffix for path in cache.iterdir()} == {".safetensors"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_runs_side_by_side_keep_the_same_posteriors(
    photos: Path,
    tmp_path: Path,
    vae: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def encode() -> Tensor:
        data = images_of(photos, cache_dir=str(tmp_path / "cache"))
        data.encode(vae, torch.device("cpu"))
        assert data._posteriors is not None
        return data._posteriors[0]

    write_meanwhile(monkeypatch, encode)
    mean = encode()
    assert "could not be kept" not in capsys.readouterr().err
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]
    assert torch.equal(encode(), mean)


def test_without_a_cache_folder_nothing_is_written(
    photos: Path, tmp_path: Path, vae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images_of(photos).encode(vae, torch.device("cpu"))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_cache_that_cannot_be_written_is_only_said(
    photos: Path, tmp_path: Path, vae: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    data = images_of(photos, cache_dir=str(tmp_path / "file" / "cache"))
    data.encode(vae, torch.device("cpu"))
    assert data._posteriors is not None
    expected = (
        f"the photos' posteriors could not be kept in {tmp_path}/file/cache ([Errno 20] Not a directory"
    )
    assert expected in capsys.readouterr().err


def test_random_crops_cannot_be_encoded_once(photos: Path, vae: Any) -> None:
    with pytest.raises(UserError) as caught:
        images_of(photos, crop="random").encode(vae, torch.device("cpu"))
    assert str(caught.value) == (
        "cached latents need fixed crops, but data.crop is random and photos are not square"
        " (0.png, 1.png, 2.png, 3.png, 4.png): set data.crop: center, or latents: reencode"
    )


def test_random_crops_of_squares_can(tmp_path: Path, vae: Any) -> None:
    for index in range(4):
        noise(index, 90, 90).save(tmp_path / f"{index}.png")
    both = [images_of(tmp_path, crop=crop) for crop in ("center", "random")]
    for data in both:
        data.encode(vae, torch.device("cpu"))
    assert torch.equal(both[0]._posteriors[0], both[1]._posteriors[0])


def test_a_vae_that_gives_nan_is_refused(photos: Path) -> None:
    vae = load_stable_diffusion("pocket").vae
    with torch.no_grad():
        next(vae.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match=r"^the VAE encodes the photos to NaN or infinity"):
        images_of(photos).encode(vae, torch.device("cpu"))


def test_weights_hash_tells_names_values_dtypes_and_shapes_apart() -> None:
    def module(name: str, tensor: Tensor) -> nn.Module:
        holder = nn.Module()
        holder.register_buffer(name, tensor)
        return holder

    zeros = torch.zeros(4)
    others = [
        module("b", zeros),
        module("a", torch.tensor([0.0, 0, 0, 1])),
        module("a", zeros.to(torch.int32)),
        module("a", zeros.view(2, 2)),
        module("a", zeros.bfloat16()),
        module("a", torch.tensor(0.0)),
    ]
    hashes = {weights_hash(other) for other in [module("a", zeros), *others]}
    assert len(hashes) == 7
    assert weights_hash(module("a", zeros.clone())) in hashes
