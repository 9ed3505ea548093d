"""Sweeps: their cells, pictures that follow from their cell alone, what is indexed, and every refusal."""

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.fits import fit_checkpoint
from helpers.full_memory import full_above
from helpers.paths import DATA, ROOT
from lightning.pytorch.callbacks import Callback
from PIL import Image

from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.dreams.dreamer import Dreamer, DreamRequest
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.stable_diffusion.loading import load_stable_diffusion
from lightning_drift.stable_diffusion.sampling import Sampling, dream
from lightning_drift.sweep.cells import shape
from lightning_drift.sweep.data import Sweep
from lightning_drift.sweep.sweep_dreamer import SweepDreamer

CONFIG = ROOT / "configs" / "sweep.yaml"
TWO = ["a red tower", "monumental, dramatic"]


def moved(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """A fine-tune's change, visible in every picture."""
    return tensor + 0.08 * tensor.std() * torch.randn(tensor.shape, generator=generator(0, key))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: Any) -> str:
    """A fine-tune of the pocket."""
    path = fit_checkpoint(tmp_path_factory.mktemp("tuned") / "step=01200.ckpt", "pocket", moved)
    return str(path)


def sweep(trainer: Any, folder: Path, checkpoint: str, **options: Any) -> Sweep:
    settings = {"prompts": TWO, "seeds": "0-1", "num_inference_steps": 1, "batch_size": 4, "sheets": 2}
    data = Sweep(checkpoint, **(settings | options))
    writer = ImageWriter(str(folder), contact_sheet=False)
    trainer(callbacks=[writer]).predict(SweepDreamer(), datamodule=data, return_predictions=False)
    return data


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").glob("*.png")}


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "index.csv").read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def whole(tuned: str, tmp_path_factory: Any) -> Path:
    """A finished sweep over all parameters but the checkpoint."""
    from lightning.pytorch import Trainer

    def trainer(**settings: Any) -> Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **quiet, **settings)

    folder = tmp_path_factory.mktemp("whole")
    sweep(trainer, folder, tuned, **EVERYTHING)
    return folder


EVERYTHING: dict[str, Any] = {"guidance_scale": "1,3,5", "num_inference_steps": "1,2", "drift": "0,0.5,1"}


# -- cells --


def test_batches_hold_pictures_of_one_model_and_shape_and_every_cell_has_its_base(tuned: str) -> None:
    data = Sweep(["pocket", tuned], prompts=TWO, seeds="0-2", batch_size=5, **EVERYTHING)
    grid = data.grid
    cells = 2 * 3 * 3 * 2 * (1 + 3)  # prompts, seeds, guidance, steps; the pocket has no drift to dial
    assert len(grid.cells) == len(grid.requests) == len(grid.bases) == cells
    assert len(grid.pictures()) == cells - 2 * 3 * 3 * 2  # a drift of 0 is the pocket's own picture
    assert {request.model.name for request in grid.bases} == {"pocket"}
    batches = grid.batches(5)
    assert sum(map(len, batches)) == len(grid.pictures())
    for batch in batches:
        assert len(batch) <= 5
        assert len({(request.model.hash, request.drift, *shape(request)) for request in batch}) == 1
    assert any(len({request.guidance_scale for request in batch}) == 2 for batch in batches)
    order = [(batch[0].model.hash, batch[0].drift) for batch in batches]
    assert len(list(dict.fromkeys(order))) == 1 + sum(a != b for a, b in pairwise(order))


def test_products_are_joined_and_share_their_pictures() -> None:
    also = {"detail": {"prompts": ["x", "y"], "guidance_scale": 3}}
    data = Sweep(prompts="x", guidance_scale="1,3", seeds="0-1", also=also, measure=False)
    assert [cell.product for cell in data.grid.cells] == ["sweep"] * 4 + ["detail"] * 4
    assert len(data.grid.pictures()) == 6  # x at a guidance of 3 is of both
    assert data.grid.bases == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"guidance_scale": "3,101"}, r"data\.guidance_scale: 101 is out of range"),
        ({"num_inference_steps": "0"}, r"data\.num_inference_steps: 0 is out of range"),
        ({"drift": "0.5,2"}, r"data\.drift: 2 is out of range; give 0 \(the base\) to 1\.5"),
        ({"seeds": "4-2"}, r"data\.seeds: the range 4-2 runs backwards"),
        ({"batch_size": 0}, r"data\.batch_size: 0 is out of range; give one from 1 to 1024"),
        ({"sample_prompts": 0}, r"data\.sample_prompts: 0 is out of range; give one from 1 to 200000"),
        (
            {"also": {"more": {"seed": 3}}},
            r"data\.also\.more: seed is not one of its options; they are prompts",
        ),
        ({"also": {"more": {"drift": 9}}}, r"data\.also\.more\.drift: 9 is out of range"),
        ({"sampling_drift": "0.5,4"}, r"data\.sampling_drift: 4 is out of range"),
        ({"also": {"sweep": {}}}, r"data\.also: the name sweep is taken"),
    ],
)
def test_what_is_no_sweep_is_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Sweep(**options)


def test_models_that_are_not_there_are_named(trainer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model: nowhere"):
        _ = Sweep("nowhere.ckpt").grid
    with pytest.raises(UserError, match="the list of checkpoints is empty"):
        _ = Sweep([]).grid
    with pytest.raises(UserError, match=r"data\.photos: there is no folder nowhere"):
        sweep(trainer, tmp_path, "pocket", photos="nowhere")


# -- pictures --


def test_a_picture_is_the_one_that_predict_makes(whole: Path, tuned: str) -> None:
    row = next(
        row
        for row in rows_of(whole)
        if (row["drift"], row["guidance_scale"], row["num_inference_steps"], row["seed"])
        == ("1", "5", "2", "1")
    )
    dreamer = Dreamer(tuned, guidance_scale=5, num_inference_steps=2)
    dreamer.configure_model()
    assert dreamer.stable_diffusion is not None
    with Image.open(whole / row["file"]) as image:
        found, text = np.asarray(image, int), image.text["parameters"]
    assert text == dreamer.describe(DreamRequest(row["prompt"], 1))[1]["parameters"]
    (expected,) = dream(
        dreamer.stable_diffusion, [row["prompt"]], [1], Sampling(guidance_scale=5, num_inference_steps=2)
    )
    assert np.abs(found - np.asarray(expected, int)).max() <= 1
    with Image.open(whole / row["base_file"]) as image:
        base, text = np.asarray(image, int), image.text["parameters"]
    (expected,) = dream(
        load_stable_diffusion("pocket"),
        [row["prompt"]],
        [1],
        Sampling(guidance_scale=5, num_inference_steps=2),
    )
    assert np.abs(base - np.asarray(expected, int)).max() <= 1
    assert "Model: pocket," in text
    assert "Drift" not in text


def test_pictures_made_beside_the_base_are_predicts_and_its_ends_are_shared(
    tuned: str, trainer: Any, tmp_path: Path
) -> None:
    options = {"prompts": "a castle", "sampling_drift": "0,0.5,1,0/1@0.5", "num_inference_steps": 2}
    data = Sweep(["pocket", tuned], **options, seeds="0-2", batch_size=2, sheets=0)
    assert len(data.grid.cells) == 3 * (1 + 4)  # the pocket has no base beside it
    assert len(data.grid.pictures()) == 3 * 4  # 0 is the pocket's own picture
    for batch in data.grid.batches(5):
        assert len({request.sampling_drift for request in batch}) == 1
    writer = ImageWriter(str(tmp_path), contact_sheet=False)
    module = SweepDreamer(drift_map=True)
    trainer(callbacks=[writer]).predict(module, datamodule=data, return_predictions=False)
    rows = rows_of(tmp_path)
    found = {(row["checkpoint"], row["sampling_drift"], row["seed"]): row for row in rows}
    for seed in ("0", "1", "2"):
        assert found[tuned, "0", seed]["file"] == found["pocket", "1", seed]["file"]
        assert found[tuned, "0", seed]["map_file"] == ""
        assert all((tmp_path / found[tuned, a, seed]["map_file"]).is_file() for a in ("0.5", "1", "0/1@0.5"))
    # In batches of one size, so to rounding: the pictures that predict makes of the same settings.
    for value in ("0.5", "1", "0/1@0.5"):
        dreamer = Dreamer(tuned, num_inference_steps=2, sampling_drift=value)
        dreamer.configure_model()
        assert dreamer.stable_diffusion is not None
        with Image.open(tmp_path / found[tuned, value, "1"]["file"]) as image:
            pixels, text = np.asarray(image, int), image.text["parameters"]
        assert text == dreamer.describe(DreamRequest("a castle", 1))[1]["parameters"]
        sampling = Sampling(num_inference_steps=2)
        (expected,) = dream(dreamer.stable_diffusion, ["a castle"], [1], sampling, beside=dreamer._beside)
        assert np.abs(pixels - np.asarray(expected, int)).max() <= 1
    assert "By sampling drift" in (tmp_path / "tables.md").read_text()
    # What is left of a batch has the same bytes.
    expected_files = bytes_of(tmp_path)
    for path in sorted((tmp_path / "images").glob("*.png"))[::3]:
        path.unlink()
    trainer(callbacks=[writer]).predict(
        SweepDreamer(drift_map=True),
        datamodule=Sweep(["pocket", tuned], **options, seeds="0-2", batch_size=2, sheets=0),
        return_predictions=False,
    )
    assert bytes_of(tmp_path) == expected_files


def test_guidance_of_each_picture_is_that_of_it_alone() -> None:
    model = load_stable_diffusion("pocket")
    scales = [1.5, 7.3, 3.0]
    mixed = dream(model, ["a castle"] * 3, [0, 1, 2], Sampling(num_inference_steps=2), guidance_scales=scales)
    for seed, (scale, image) in enumerate(zip(scales, mixed, strict=True)):
        alone = dream(
            model, ["a castle"] * 3, [0, 1, 2], Sampling(guidance_scale=scale, num_inference_steps=2)
        )[seed]
        assert np.array_equal(np.asarray(alone), np.asarray(image))
    with pytest.raises(ValueError, match="with and without guidance"):
        dream(model, ["a"] * 2, [0, 1], Sampling(num_inference_steps=1), guidance_scales=[1, 3])


def test_what_is_left_of_a_batch_gives_the_same_files(
    whole: Path, tuned: str, trainer: Any, tmp_path: Path
) -> None:
    """Every third picture gone and one damaged: other pictures share a batch, and the bytes are the same."""
    expected = bytes_of(whole)
    shutil.copytree(whole / "images", tmp_path / "images")
    for number, path in enumerate(sorted((tmp_path / "images").iterdir())):
        if number % 3 == 0:
            path.unlink()
        elif number == 1:
            path.write_bytes(path.read_bytes()[:-100])
    sweep(trainer, tmp_path, tuned, **EVERYTHING)
    assert bytes_of(tmp_path) == expected
    assert (tmp_path / "index.csv").read_bytes() == (whole / "index.csv").read_bytes()


def test_a_batch_that_does_not_fit_gives_the_files_of_the_smaller_one(
    trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    options = {"seeds": "0-2", "guidance_scale": 3, "measure": False, "sheets": 0}
    sweep(trainer, tmp_path / "two", "pocket", batch_size=2, **options)
    with full_above(4) as given:  # guidance gives the UNet two of each
        sweep(trainer, tmp_path / "eight", "pocket", batch_size=8, **options)
    assert given == [16, 8, 4, 4, 4]
    assert bytes_of(tmp_path / "eight") == bytes_of(tmp_path / "two")
    said = capsys.readouterr().err
    assert said.count("from here on there are 2 (data.batch_size 2 saves the attempt)") == 1


def command(folder: Path, tuned: str, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "lightning_drift", "predict", "-c", str(CONFIG)),
        *("--data.checkpoints", tuned, "--data.prompts", '["a red tower", "monumental, dramatic"]'),
        *("--data.seeds", "0-1", "--data.guidance_scale", "1,3,5", "--data.num_inference_steps", "1,2"),
        *("--data.drift", "0,0.5,1", "--data.batch_size", "4", "--data.sheets", "0"),
        *("--image_writer.output_dir", str(folder), *more),
    ]


def test_a_kill_and_two_devices_give_the_same_files(whole: Path, tuned: str, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(tmp_path, tuned), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(6000):  # until it is in the midst of it
        if len(list(tmp_path.glob("images/*.png"))) >= 5 or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "index.csv").exists()
    begun = len(list(tmp_path.glob("images/*.png")))
    assert 5 <= begun < 72
    two = command(
        tmp_path, tuned, "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"
    )
    done = subprocess.run(two, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert bytes_of(tmp_path) == bytes_of(whole)
    assert (tmp_path / "index.csv").read_bytes() == (whole / "index.csv").read_bytes()
    assert done.stdout.count("Rank them:") == done.stdout.count("cells    72") == 1
    assert "already" in done.stdout


def test_a_full_disk_stops_it_with_a_sentence_and_nothing_half_written(
    tuned: str, trainer: Any, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file may grow beyond: as a disk without room
    try:
        with pytest.raises(UserError, match=r"cannot write .*images/.*\.png: File too large"):
            sweep(trainer, tmp_path, tuned)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# -- plan --


def test_a_dry_run_prints_the_plan_and_makes_nothing(
    tuned: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    assert main([*command(tmp_path / "new", tuned)[3:], "--dry_run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "sweep: 2 prompts x 2 seeds x 3 guidance scales x 2 step counts x 3 drifts",
        "cells    72",
        "images   72",
    ]
    assert said[3].startswith("time     about ")
    assert said[4].startswith("disk     up to ")
    assert list(tmp_path.iterdir()) == []
    assert main(["predict", "--dry_run"]) == 2
    assert "--dry_run prints the plan of a sweep or of prints" in capsys.readouterr().err
    assert main(["predict", "--data", "lightning_drift.Sweep"]) == 2
    assert "data: a Sweep is rendered by" in capsys.readouterr().err
    assert main(["predict", "--model", "lightning_drift.SweepDreamer"]) == 2
    assert "model: SweepDreamer renders sweeps; give it data of" in capsys.readouterr().err
    assert main([*command(tmp_path, tuned)[3:], "--data.sheet_rows=colour", "--dry_run"]) == 2
    assert "data.sheet_rows: colour is no parameter; give one of prompt, seed" in capsys.readouterr().err


# -- what is written --


def test_the_index_has_every_parameter_measure_and_file(whole: Path, tuned: str) -> None:
    rows = rows_of(whole)
    assert len(rows) == 72
    assert list(rows[0]) == [
        *("file", "base_file", "product", "group", "prompt", "seed", "guidance_scale"),
        *(
            "num_inference_steps",
            "checkpoint",
            "drift",
            "sampling_drift",
            "drift_from_base",
            "adherence",
            "clip_t",
            "diversity",
        ),
        *("tilt", "delta_e", "lightness", "chroma"),
    ]
    assert {row["checkpoint"] for row in rows} == {tuned}
    assert len({tuple(row.values())[2:11] for row in rows}) == 72
    for row in rows:
        assert (whole / row["file"]).is_file()
        assert (row["file"] == row["base_file"]) == (row["drift"] == "0")
        measured = [float(row[name]) for name in ("drift_from_base", "tilt", "delta_e")]
        assert (max(measured) == 0) == (row["drift"] == "0")
    means = (whole / "tables.md").read_text()
    assert "### By guidance scale" in means
    assert "### Drift from base by guidance scale and steps\n\n| guidance \\ steps | 1 | 2 |" in means
    assert len(list((whole / "sheets").glob("*.png"))) == 2


def test_measures_by_the_photos_and_without_a_clip(
    tuned: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    one = {"prompts": "a castle", "photos": "coffee", "batch_size": 2}
    sweep(trainer, tmp_path / "with", tuned, **one)
    (row, _) = rows_of(tmp_path / "with")
    assert {"pull", "likeness", "clip_t"} <= set(row)
    assert "adherence" not in row  # one prompt is not told from others
    shutil.copytree(tmp_path / "with" / "images", tmp_path / "without" / "images")
    sweep(trainer, tmp_path / "without", tuned, clip=None, **one)
    (other, _) = rows_of(tmp_path / "without")
    assert set(row) - set(other) == {"drift_from_base", "pull", "clip_t", "diversity"}
    assert [other[name] for name in ("tilt", "likeness")] == [row[name] for name in ("tilt", "likeness")]
    sweep(trainer, tmp_path / "without", tuned, clip="nowhere/at-all", **one)
    assert "data.clip: nowhere/at-all is not in the cache" in capsys.readouterr().err
    assert set(rows_of(tmp_path / "without")[0]) == set(other)


def test_large_pictures_get_thumbnails_and_sheets_are_labelled(trainer: Any, tmp_path: Path) -> None:
    slots = {"object": "pocket_objects.txt"}
    module, writer = SweepDreamer(height=16, width=320), ImageWriter(str(tmp_path), contact_sheet=False)
    data = Sweep(
        str(DATA / "tiny_sd"),
        prompts="a {object}",
        slots=slots,
        seeds="0-1",
        num_inference_steps=1,
        sample_prompts=3,
        sheet_columns="seed",
        sheet_rows="object",
        clip="pocket",
    )
    trainer(callbacks=[writer]).predict(module, datamodule=data, return_predictions=False)
    assert len(list((tmp_path / "thumbnails").glob("*.webp"))) == 6
    (sheet,) = (tmp_path / "sheets").glob("*.png")
    assert sheet.stem == "sweep_object-by-seed"
    assert rows_of(tmp_path)[0]["object"] in rows_of(tmp_path)[0]["prompt"]


class Damages(Callback):
    """Cuts a finished picture short before the report reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = ""

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        path = min((self.folder / "images").glob("*red-tower*.png"))
        path.write_bytes(path.read_bytes()[:200])
        self.name = f"images/{path.name}"


@pytest.mark.parametrize("measure", [True, False])
def test_a_damaged_picture_costs_its_cell_only(
    measure: bool, trainer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damages = Damages(tmp_path)
    data = Sweep(
        str(DATA / "tiny_sd"),
        prompts=TWO,
        seeds="0-1",
        num_inference_steps=1,
        sheets=2,
        measure=measure,
        clip="pocket",
    )
    writer = ImageWriter(str(tmp_path), contact_sheet=False)
    trainer(callbacks=[writer, damages]).predict(SweepDreamer(), datamodule=data, return_predictions=False)
    assert f"{damages.name} is damaged or cut short" in capsys.readouterr().err
    files = [row["file"] for row in rows_of(tmp_path)]
    assert len(files) == 3
    assert damages.name not in files
    assert damages.name.rpartition("/")[2] not in (tmp_path / "sweep.html").read_text()


@pytest.mark.parametrize("name", ["index.csv", "tables.md", "sweep.html", "sheets/mine.png"])
def test_a_sweep_writes_over_nothing_but_a_sweep(
    tuned: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert main(command(tmp_path / "new", tuned)[3:]) == 2
    told = capsys.readouterr().err
    assert (
        f"error: image_writer.output_dir: {tmp_path / 'new'} holds {name.partition('/')[0]}, which no" in told
    )
    assert path.read_text() == "mine"
    (tmp_path / "new" / "index.csv").write_text("file,product,prompt,seed\r\n")  # a sweep's
    assert main([*command(tmp_path / "new", tuned)[3:], "--dry_run"]) == 0
