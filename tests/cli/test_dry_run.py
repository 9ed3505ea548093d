"""What fit and corridor say they would do; they do nothing."""

import re
from pathlib import Path
from typing import Any

import pytest

from lightning_drift.cli import main

FEW = ["--trainer.max_steps=8", "--step_checkpoint.steps=4,8", "--seed_grid.steps=0,8"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)


def say(capsys: Any, *words: str) -> tuple[int, str, str]:
    status = main([*words])
    out, err = capsys.readouterr()
    return status, out, err


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_fit_says_what_will_run_and_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    status, out, err = say(capsys, "fit", "--dry_run", *FEW)
    assert status == 0, err
    assert not files(tmp_path)
    for line in (
        r"base +pocket",
        r"photos +8 in coffee, 64x64, 1 per step; prompt: a photo of sks cup",
        r"steps +0 to 8, learning rate 4e-5",
        r"trains +UNet and text encoder, 5,918,268 weights, 32-true",
        r"grids +38 pictures at 0, 8; 4 of 50 steps, 34 of 10 steps, guidance 3, 7 together",
        r"checkpoints +4, 8; last.ckpt every 200 steps",
        r"work +steps 0\.\d\d TFLOP, grids [\d.]+, measures [\d.]+: \d+% is not training, .* on disk .*",
        r"work .*\(counted; measures are \d\d?\.\d%\)",
        r"time +steps about \d+ \w+, grids about .* \(timed on this CPU with random weights\)",
        r"disk +checkpoints take up to 199\.46 MiB, .* are free in tb_logs/coffee/lr4e-5_000/checkpoints",
        r" +photos +step +grids +decoding +measures +CLIP",
        r"full +[\d.]+ +92\.\d\d .*",
        r"split is not possible: split keeps .*",
    ):
        assert re.search(rf"(?m)^{line}$", out), f"{line}\n{out}"
    assert "download" not in out


def test_the_recipe_is_planned_for_a_card_that_is_not_here(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    recipe = str(Path(__file__).parents[2] / "configs" / "dreambooth_sd15.yaml")
    photos = ["--data.instance_dir=coffee", "--data.allow_small=true"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    status, out, err = say(capsys, "fit", "-c", recipe, "--dry_run", "--card=7.9", *photos)
    assert status == 0, err
    assert re.search(r"(?m)^memory +recompute: recompute needs about 7\.\d GiB", out), out
    fits = re.findall(r"(?m)^(\w+) +[\d.]+ +(yes|no) ", out)
    assert fits == [
        ("full", "no"),
        ("split", "no"),
        ("deferred", "no"),
        ("recompute", "yes"),
        ("paged", "yes"),
    ]
    assert re.search(r"(?m)^grids .*, 4 together$", out), "more do not fit"
    assert re.search(r"(?m)^time +not known: the card is not here$", out)
    assert re.search(
        r"(?m)^download +stable-diffusion-v1-5/\S+ \(about 3\.97 GiB\), openai/\S+ \(about 1\.59", out
    )
    assert "checkpoints take up to 22." in out


@pytest.mark.parametrize(
    ("words", "together"),
    [
        (["--seed_grid.batch_size=auto"], 7),
        (["--seed_grid.batch_size=auto", "--trainer.precision=16-mixed", "--card=8"], 12),
        (["--seed_grid.batch_size=17"], 17),
    ],
)
def test_a_grids_batch_is_the_largest_that_fits(
    tiny_sd: str, capsys: Any, words: list[str], together: int
) -> None:
    """Of 38 pictures 34 have the same steps: five batches of 7 at most, three of 12 or two of 17."""
    status, out, err = say(capsys, "fit", "--dry_run", f"--model.pipeline={tiny_sd}", *FEW, *words)
    assert status == 0, err
    assert re.search(rf"(?m)^grids +38 pictures .*, {together} together$", out), out


def test_a_card_without_memory_is_refused(capsys: Any) -> None:
    status, _, err = say(capsys, "fit", "--dry_run", "--card=-1", *FEW)
    assert (status, err.startswith("error: card: -1")) == (2, True)


@pytest.mark.parametrize("words", [["fit"], ["corridor", "--lr=1e-6", "--steps=2"]])
def test_a_card_to_compare_with_is_for_a_plan(words: list[str], capsys: Any, tmp_path: Path) -> None:
    status, _, err = say(capsys, *words, "--card=8")
    assert status == 2
    assert "error: card: it is what --dry_run compares a plan with" in err
    assert not files(tmp_path)


def test_a_corridor_adds_up_what_is_left(tmp_path: Path, capsys: Any) -> None:
    words = ["--lr=4e-5,8e-5", "--steps=4,8", "--devices=cpu", "--dry_run"]
    status, out, err = say(capsys, "corridor", *words)
    assert status == 0, err
    assert not files(tmp_path)
    for line in (
        r"corridor +tb_logs/coffee/corridor: 4e-5, 8e-5, looked at after 4, 8 steps",
        r" +lr 4e-5: to be fitted",
        r"fits +2, on the CPU",
        r"time +about .* for all \(timed on this CPU with random weights\)",
        r"disk +up to 334\.9\d MiB of checkpoints, .* are free",
        r"  steps +0 to 8, learning rate 4e-5",
    ):
        assert re.search(rf"(?m)^{line}$", out), f"{line}\n{out}"
