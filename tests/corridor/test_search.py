"""A search as a person runs it: real fits of the tiny model on a Ray of this machine, stopped and killed."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.corridors import end_corridors, start_corridor, until
from helpers.paths import DATA

from lightning_drift.cli import main
from lightning_drift.common.lock import is_held
from lightning_drift.corridor.read import read
from lightning_drift.corridor.search_plan import readings
from lightning_drift.corridor.searcher import MilestoneVerdict
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.runs import rate_name

OPTIONS = [
    f"--model.pipeline={DATA / 'tiny_sd'}",
    "--seed_grid.num_inference_steps=1",
    "--seed_grid.groups={dream: {prompts: 'a tree', seeds: 0-1},"
    " language: {prompts: [a tree, a moon, a red cup], seeds: 0-1}}",
    "--clip_drift.language_probe=false",
    "--launcher=ray",
    "--launcher.address=local",
]
FOLDER = Path("tb_logs/coffee/corridor")


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    end_corridors()


def search(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    return start_corridor(folder, *OPTIONS, *options)


@pytest.mark.slow
def test_a_search_begins_no_more_fits_than_it_may_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    said, place = tmp_path / "said.txt", tmp_path / FOLDER
    options = ("--search=2", "--lr=1e-5,1e-3", "--steps=2,30", "--step_checkpoint.last_every_n_steps=1")
    options = (*options, "--launcher.cpus", str(os.cpu_count()))
    options = (*options, "--trainer.accumulate_grad_batches=40")  # a step takes longer than a kill
    first = search(tmp_path, *options)
    last = place / "lr1e-4" / "checkpoints" / "last.ckpt"
    until(first, lambda: last.exists() and read_checkpoint(last)["global_step"] > 2, tmp_path)
    first.kill()
    first.wait()
    until(None, lambda: not is_held(place / "lr1e-4"), tmp_path)  # its fit ends with it
    reached = int(read_checkpoint(last)["global_step"])
    assert 1 <= reached < 30

    said.write_text("")
    assert search(tmp_path, *options).wait(240) == 0, said.read_text()
    lines = said.read_text()
    assert f"lr 1e-4: fitting from step {reached} on Ray" in lines
    table = read(place)
    assert len(table.runs) == 2
    assert {cell.state for cell in table.cells.values()} == {"measured"}
    rates = yaml.safe_load((place / "plan.yaml").read_text())["lr"]
    assert len(rates) == 2
    # Under-drifted at both steps (see below), so the second fit is at a higher rate.
    assert 1e-4 in rates
    assert max(rates) > 1e-4
    for run in table.runs:
        for step in (2, 30):
            assert f"lr {run.label} x {step}: {table.cells[run.name, step].zone}" in lines or step < reached
    assert "(2 fits of 2)" in lines
    for noise in ("WARNING", "ERROR", "Traceback", "tune", "/tmp/"):
        assert noise not in lines
    assert (place / "corridor.html").exists()

    files = {path: path.stat().st_mtime_ns for path in place.glob("lr*/**/*")}
    said.write_text("")
    assert search(tmp_path, *options).wait(240) == 0, said.read_text()
    assert "fitting" not in said.read_text()
    assert {path: path.stat().st_mtime_ns for path in place.glob("lr*/**/*")} == files


@pytest.mark.slow
def test_what_is_cooked_is_stopped_and_interrupts_end_in_order(tmp_path: Path) -> None:
    said, place = tmp_path / "said.txt", tmp_path / FOLDER
    options = ("--search=1", "--lr=1e-5,1e-3", "--steps=2,2000", "--step_checkpoint.last_every_n_steps=1")
    # Language as it was is language lost: the model is cooked or broken from the first milestone on.
    strict = ("--clip_drift.thresholds.language_keep=0.9999", "--clip_drift.thresholds.language_lost=0.9998")
    assert search(tmp_path, *options, *strict).wait(240) == 0, said.read_text()
    cells = read(place).cells
    zone = cells["lr1e-4", 2].zone
    assert zone in ("cooked", "broken")
    assert cells["lr1e-4", 2000].state == "not run"
    assert cells["lr1e-4", 2000].verdict == f"The search stopped it at step 2, where the model was {zone}."
    assert f"lr 1e-4: stopped at step 2, where it is {zone}" in said.read_text()
    assert not (place / "lr1e-4.error.txt").exists()
    assert int(read_checkpoint(place / "lr1e-4/checkpoints/last.ckpt")["global_step"]) < 2000

    # The next one of the same search does not go on with it, and Ctrl-C ends in order.
    said.write_text("")
    second = search(tmp_path, "--search=2", *options[1:], *strict)
    until(second, lambda: "fitting on Ray" in said.read_text(), tmp_path)
    assert "lr 1e-4: fitting" not in said.read_text()
    other = next(rate for rate in yaml.safe_load((place / "plan.yaml").read_text())["lr"] if rate != 1e-4)
    folder = place / rate_name(other)
    until(second, (folder / "config.yaml").exists, tmp_path)
    second.send_signal(signal.SIGINT)
    assert second.wait(120) == 130
    assert "all fits are stopped; go on with: lightning-drift corridor" in said.read_text()
    assert not is_held(folder)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lr=1e-6"], "a search is for a range"),
        (["--lr=1e-6,8e-6", "--seeds=0-1"], "a search is for one seed"),
        (["--lr=1e-6,8e-6", "--launcher=slurm"], "a search runs by Ray Tune, and not by slurm"),
        (["--lr=1e-6,8e-6", "--devices=cpu"], "Ray places the fits of a search"),
        (["--lr=1e-6,8e-6", "--search=0"], "corridor.search"),
    ],
)
def test_what_does_not_go_with_a_search_is_refused(
    options: list[str], sentence: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["corridor", "--search=4", "--steps=2,4", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_the_range_and_starts_nothing(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["corridor", "--search=4", "--lr=1e-6,1e-4", "--steps=2,4", "--dry_run"]) == 0
    lines = capsys.readouterr().out
    assert "from 1e-6 to 1e-4, looked at after 2, 4 steps" in lines
    assert "4 at most, on Ray; 0 begun already" in lines
    assert "lr 1e-5" in lines  # the middle comes first
    assert not list(tmp_path.rglob("plan.yaml"))
    assert main(["corridor", "--search=4", "--lr=1e-6,1e-4", "--steps=2,4", "--clip_drift.clip=null"]) == 2
    assert "without a CLIP there are none" in capsys.readouterr().err


def test_verdicts_are_read_from_the_files_of_a_fit_and_damaged_ones_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "drift"
    folder.mkdir()
    said = '{"zone": "dreaming", "borderline": null, "position": 41.5, "reason": ""}'
    for step, text in ((2, said), (4, said[:20]), (6, "[]"), (8, said.replace("dreaming", "asleep"))):
        (folder / f"step={step:05d}.json").write_text(text)
    assert readings(tmp_path, [2, 4, 6, 8, 10]) == {2: MilestoneVerdict("dreaming", None, 41.5)}
