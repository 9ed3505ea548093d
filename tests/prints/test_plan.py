"""The plan of prints: what it says is what is then made."""

import re

import numpy as np
import pytest
import torch
from helpers.supir.running import opened, photo, upscaler
from lightning.pytorch import Trainer
from PIL import Image

from lightning_drift import OpenUpscaler, SupirUpscaler, UpscaleImages
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import write_png
from lightning_drift.lightning_cli import DriftCLI
from lightning_drift.prints.trial import PrintTrial
from lightning_drift.supir.restoration import Restorer

SMALL = {"min_size": 64, "edm_steps": 2}


def planned(module, data, folder):
    writer = ImageWriter(str(folder), contact_sheet=False)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[writer],
    )
    return module.predict_plan(trainer, data, True).splitlines()


def line(lines, name):
    (found,) = [each for each in lines if each.startswith(f"{name} ")]
    return found[9:]


def pocket(**options):
    return SupirUpscaler(
        "pocket", "pocket", prompt="", negative_prompt="", min_size=64, edm_steps=2, **options
    )


@pytest.mark.slow
def test_it_says_the_pixels_passes_and_windows_that_are_made(tmp_path, capsys):
    photo(tmp_path / "a.png", size=(30, 20))
    options = [
        "predict", "--model=lightning_drift.SupirUpscaler", "--data=lightning_drift.UpscaleImages",
        "--model.supir=pocket", "--model.sdxl=pocket", "--model.min_size=64", "--model.edm_steps=2",
        "--model.prompt=", "--model.negative_prompt=", "--model.tile_size=256", "--trainer.accelerator=cpu",
        f"--data.images={tmp_path / 'a.png'}", "--data.print=30x22mm", "--data.bleed=2mm",
        f"--image_writer.output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    DriftCLI([*options, "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "out" / "a.png").exists()
    assert line(lines, "prints") == "1"
    size = line(lines, "size")
    assert size.startswith(
        "30x22mm at 300 dpi, 2 mm bleed: a file of 402x307 pixels; 30x20 -> 402x307 pixels"
    )
    assert "13% of the picture is beyond the paper's shape and cut off" in size
    assert line(lines, "passes").startswith("2: 30x20 -> ")
    assert "-> 402x307; no step above 4 times" in line(lines, "passes")
    assert line(lines, "windows").startswith("6 of 256x256 pixels: ")
    assert re.search(r"^memory   about .* of this CPU, .* free$", "\n".join(lines), re.M)
    DriftCLI(options)
    picture = opened(tmp_path / "out" / "a.png")
    assert picture.size == (402, 307)
    assert "Passes: 2" in picture.info["parameters"]
    capsys.readouterr()
    DriftCLI([*options, "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert line(lines, "there") == "1 already, 0 to make"
    assert not [each for each in lines if each.startswith(("time", "memory", "disk"))]


def test_files_that_are_no_pictures_and_many_sizes_are_counted(models, tmp_path):
    for k in range(6):
        photo(tmp_path / "in" / f"{k}.png", size=(30 + k, 30))
    (tmp_path / "in" / "no.png").write_bytes(b"no")
    lines = planned(
        upscaler(models, upscale=1.0), UpscaleImages(str(tmp_path / "in"), num_samples=2), tmp_path / "out"
    )
    assert line(lines, "prints") == "14, 2 of them of files that cannot be used"
    assert "         and 2 other sizes" in lines
    assert sum(each.endswith("(2 prints)") for each in lines) == 4


def test_disk_counts_the_bits_that_are_written(tmp_path):
    deep = np.full((32, 32, 3), 300, np.uint16)
    small = Image.new("RGB", (32, 32))
    write_png(tmp_path / "deep.png", Picture(None, "", small, {}, deep=deep))
    small.save(tmp_path / "flat.png")

    def disk(name, **options):
        data = UpscaleImages(str(tmp_path / name), print="1x1cm", **options)
        said = line(planned(OpenUpscaler(), data, tmp_path), "disk")
        return float(re.match(r"up to ([\d.]+) KiB", said)[1])

    assert disk("flat.png", bits=16) == disk("deep.png") == pytest.approx(118**2 * 6 / 1024 + 8, abs=1)
    assert disk("deep.png", bits=8) == pytest.approx(118**2 * 3 / 1024 + 8, abs=1)


@pytest.fixture(scope="module")
def trial():
    module = pocket(tile_size=256)
    module.setup("predict")
    return PrintTrial(Restorer(module.checkpoints, module.method(), torch.device("cpu")))


def test_memory_is_that_of_a_window_and_of_the_whole_first_stage(trial):
    """Counted on the meta device: what a larger picture takes beside is pixels, not the network's."""
    inside = trial._count("network", (256, 256))[0]
    assert trial._count("network", (512, 512))[0] > 3 * inside
    small, large = trial.peak((512, 512)), trial.peak((1024, 1024))
    assert 3 < large / small < 5
    assert trial.peak((256, 256)) > inside


def test_more_windows_and_guidance_take_proportionally_longer(trial):
    with torch.no_grad():
        trial.restorer.prompts.encode(["", "a house"])
        alone = trial.step((256, 256), "")
        assert trial.step((256, 256), "a house") == 2 * alone
        assert trial.step((512, 512), "") == 9 * alone
