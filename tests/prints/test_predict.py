"""The predict stage on a tiny SUPIR: folders of pictures in, exactly scaled pictures out."""

import io
import re

import numpy as np
import pytest
import torch
from helpers.supir.running import PROFILE, opened, photo, pixels, predict, upscaler
from PIL import Image
from tqdm import tqdm

from lightning_drift import UpscaleImages
from lightning_drift.common.errors import UserError, notice
from lightning_drift.supir.restoration import Restorer


def test_a_folder_becomes_prints_of_exactly_the_scale(models, photos, tmp_path, capsys):
    module = upscaler(models)
    writer = predict(module, UpscaleImages(str(photos)), tmp_path / "prints")
    assert [path.name for path in writer.written] == ["a.png", "b.png"]
    assert opened(tmp_path / "prints" / "a.png").size == (80, 66)
    assert opened(tmp_path / "prints" / "b.png").size == (96, 64)
    said = capsys.readouterr().err
    assert said.startswith("lightning-drift: SUPIR's weights are licensed")
    assert "non-commercial" in said
    text = opened(tmp_path / "prints" / "a.png").text["parameters"]
    assert text.startswith(
        "sharp textures, fine grain, rich color depth\nNegative prompt: blurry, low quality, jpeg"
    )
    for part in (
        "Steps: 2", "Sampler: edm", "CFG scale: 3", "CFG scale start: 1", "Seed: 1234", "Control scale: 0.9",
        "s_churn: 5", "s_noise: 1.01", "Color fix: Wavelet (stage1)", "Denoiser dtype: float32",
        "Autoencoder dtype: float32", "SUPIR: SUPIR-v0Q", "Model: sdxl", "Upscale: 2", "Min size: 64",
    ):  # fmt: skip
        assert part in text, part
    for key in ("SUPIR hash: ", "Model hash: ", "Input hash: "):
        assert len(text.split(key)[1].split(",")[0]) == 10

    # A second run finds everything made, and loads nothing.
    again = upscaler(models)
    writer = predict(again, UpscaleImages(str(photos)), tmp_path / "prints")
    assert not writer.written
    assert len(writer.skipped) == 2
    assert again._restorer is None


def test_a_picture_depends_on_neither_batch_nor_neighbours(models, photos, tmp_path):
    photo(photos / "c.png", seed=7)
    predict(upscaler(models), UpscaleImages(str(photos), batch_size=3), tmp_path / "together")
    predict(upscaler(models), UpscaleImages(str(photos / "c.png")), tmp_path / "alone")
    together, alone = (pixels(tmp_path / name / "c.png").astype(int) for name in ("together", "alone"))
    assert np.abs(together - alone).max() <= 1
    assert np.abs(pixels(tmp_path / "together" / "a.png").astype(int) - together).mean() > 1


def test_samples_and_seeds(models, photos, tmp_path):
    data = UpscaleImages(str(photos / "a.png"), num_samples=2, seed=-1)
    predict(upscaler(models), data, tmp_path / "prints")
    names = sorted(path.name for path in (tmp_path / "prints").iterdir())
    assert names == ["a.png", "a_2.png"]
    texts = [opened(tmp_path / "prints" / name).text["parameters"] for name in names]
    seed = int(texts[0].split("Seed: ")[1].split(",")[0])
    assert 0 <= seed <= 65535
    assert f"Seed: {seed}, Sample: 2" in texts[1]
    assert not np.array_equal(*(pixels(tmp_path / "prints" / name) for name in names))
    # The seed follows from the contents, so that a stopped run goes on with it.
    writer = predict(
        upscaler(models), UpscaleImages(str(photos / "a.png"), num_samples=2, seed=-1), tmp_path / "prints"
    )
    assert len(writer.skipped) == 2


def test_captions_come_from_beside_the_pictures(models, photos, tmp_path):
    (photos / "a.txt").write_text("a cup of coffee\n")
    (photos / "a.tiles.txt").write_text("left\nmiddle\nright\n")
    (photos / "b.tiles.txt").write_text("left\nright\n")
    photo(photos / "c.png", size=(16, 16)).with_suffix(".txt").write_text("a spoon")
    module = upscaler(models, tile_size=256, tile_overlap=64, upscale=8.0)
    with pytest.raises(UserError) as caught:
        predict(module, UpscaleImages(str(photos)), tmp_path / "prints")
    assert "a.png has 3 tile captions, but is sampled in 4 windows" in str(caught.value)
    assert "one image could not be upscaled, the others are done" in str(caught.value)
    text = opened(tmp_path / "prints" / "c.png").text["parameters"]
    assert text.startswith("a spoon, sharp textures")
    assert "Tile captions: left | right" in opened(tmp_path / "prints" / "b.png").text["parameters"]
    assert "a spoon" not in UpscaleImages(str(photos), captions=False).requests[2].captions


def test_bad_pictures_are_skipped_with_a_sentence_and_summed_up(models, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes((photos / "a.png").read_bytes()[:60])
    (photos / "empty.png").write_bytes(b"")
    (photos / "page.png").write_text("<html>not found</html>")
    photo(photos / "line.png", size=(30000, 1))
    with pytest.raises(UserError) as caught:
        predict(upscaler(models), UpscaleImages(str(photos), batch_size=2), tmp_path / "prints")
    said = str(caught.value)
    assert said.startswith("4 images could not be upscaled, the others are done:")
    for part in (
        "broken.jpg is damaged",
        "empty.png is empty",
        "page.png is a web page",
        "lower model.upscale",
    ):
        assert part in said
        assert part in capsys.readouterr().err + said
    assert sorted(path.name for path in (tmp_path / "prints").iterdir()) == ["a.png", "b.png"]


def test_transparency_profile_and_orientation_are_kept(models, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(folder / "clear.png", size=(40, 32), mode="RGBA", icc_profile=PROFILE)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    photo(folder / "side.jpg", size=(64, 32), exif=exif.tobytes())
    photo(folder / "ink.jpg", size=(32, 32), mode="CMYK")
    photo(folder / "grey.png", size=(32, 32), mode="L")
    predict(upscaler(models), UpscaleImages(str(folder)), tmp_path / "prints")
    clear = opened(tmp_path / "prints" / "clear.png")
    assert (clear.mode, clear.size) == ("RGBA", (80, 64))
    assert clear.info["icc_profile"] == PROFILE
    wanted = opened(folder / "clear.png").getchannel("A").resize((80, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(clear.getchannel("A")), np.asarray(wanted))
    assert opened(tmp_path / "prints" / "side.png").size == (64, 128)
    for name in ("ink", "grey"):
        image = opened(tmp_path / "prints" / f"{name}.png")
        assert (image.mode, image.size) == ("RGB", (64, 64))


def test_bad_data_options(photos, tmp_path):
    (tmp_path / "none").mkdir()
    twin = tmp_path / "twin"
    twin.mkdir()
    photo(twin / "a.png")
    for arguments, part in (
        ({"images": str(tmp_path / "gone")}, "no such file or folder"),
        ({"images": str(tmp_path / "none")}, "holds no images"),
        ({"images": str(photos), "num_samples": 0}, "data.num_samples"),
        ({"images": str(photos), "batch_size": 0}, "data.batch_size"),
        ({"images": str(photos), "seed": -2}, "data.seed"),
        ({"images": [str(photos), str(twin)]}, "several images are called a.png"),
    ):
        with pytest.raises(UserError) as caught:
            UpscaleImages(**arguments)
        assert part in str(caught.value)


def test_a_folder_gives_its_images_only(photos):
    photo(photos / "contact_sheet.png")
    photo(photos / ".hidden.png")
    (photos / "notes.txt").write_text("no image")
    (photos / "inner.png").mkdir()
    assert [request.name for request in UpscaleImages(str(photos)).requests] == ["a", "b"]
    both = UpscaleImages([str(photos / "b.png"), str(photos / "contact_sheet.png")])
    assert [request.name for request in both.requests] == ["b", "contact_sheet"]


def test_equal_stems_keep_apart(photos):
    photo(photos / "a.jpg")
    assert [request.name for request in UpscaleImages(str(photos)).requests] == ["a.jpg", "a.png", "b"]


def test_a_missing_model_is_a_sentence(models, photos, tmp_path):
    for option in ("supir", "sdxl"):
        with pytest.raises(UserError) as caught:
            predict(upscaler({**models, option: "gone.safetensors"}), UpscaleImages(str(photos)), tmp_path)
        assert f"{option}: no such file or folder: gone.safetensors" in str(caught.value)


def test_two_devices_split_the_work_without_duplicates(models, photos, tmp_path):
    """Requests carry their names, and the sampler of predict repeats none."""
    from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler

    photo(photos / "c.png", seed=2)
    data = UpscaleImages(str(photos)).predict_dataloader().dataset
    shares = [
        [data[i].name for i in UnrepeatedDistributedSampler(data, num_replicas=2, rank=rank, shuffle=False)]
        for rank in (0, 1)
    ]
    assert sorted(shares[0] + shares[1]) == ["a", "b", "c"]


def test_a_notice_stands_on_a_line_of_its_own_beside_progress_bars(capsys):
    with tqdm(total=9, desc="total") as total, tqdm(total=3, desc="image", position=1) as bar:
        total.update(), bar.update()
        notice("skipped: x.png")
    said = re.split(r"[\r\n]|\x1b\[A", capsys.readouterr().err)
    assert "lightning-drift: skipped: x.png" in said


def test_png_bytes_are_whole(models, photos, tmp_path):
    predict(upscaler(models), UpscaleImages(str(photos / "a.png")), tmp_path / "prints")
    with Image.open(io.BytesIO((tmp_path / "prints" / "a.png").read_bytes())) as image:
        image.verify()
    assert [path.name for path in (tmp_path / "prints").iterdir()] == ["a.png"]


def refuse_gpu():
    raise torch.cuda.OutOfMemoryError("out of memory")


def refuse_cpu():
    torch.empty(2**58)


@pytest.mark.parametrize("allocate", [refuse_gpu, refuse_cpu])
def test_what_does_not_fit_is_reported_and_the_rest_is_made(models, photos, tmp_path, monkeypatch, allocate):
    """The GPU's refusal is simulated for one picture, by its size; the CPU's is real."""
    inner = Restorer.restore

    def refuse(self, images, *args, **options):
        if images.shape[-2] == 64:
            allocate()
        return inner(self, images, *args, **options)

    monkeypatch.setattr(Restorer, "restore", refuse)
    with pytest.raises(UserError, match=r"b\.png does not fit into the device's memory; try"):
        predict(upscaler(models), UpscaleImages(str(photos)), tmp_path / "prints")
    assert [path.name for path in (tmp_path / "prints").iterdir()] == ["a.png"]
