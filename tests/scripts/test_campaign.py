"""The campaign finds what is lost, and a short one loses nothing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.corridor_runs import write_run
from helpers.paths import ROOT
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from scripts.campaign.command import job_of, schedule
from scripts.campaign.compare import compare, partials, torn
from scripts.campaign.events import damage
from scripts.campaign.jobs import JOBS


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A run folder and its equal."""
    run = write_run(tmp_path / "whole", 2e-6, (8,), {8: ("dreaming", None, 40.0)})
    state = {"state_dict": {"a": torch.arange(4.0)}, "global_step": 8, "loops": {"x": [1, None]}}
    torch.save(state, run / "checkpoints" / "step=00008.ckpt")
    (run / "page.html").write_text("<html><script type='application/json'>[1]</script></html>\n")
    return run, shutil.copytree(run, tmp_path / "again")


def one_bit(run: Path) -> None:
    state = torch.load(run / "checkpoints" / "step=00008.ckpt")
    state["state_dict"]["a"].view(torch.int32)[2] ^= 1
    torch.save(state, run / "checkpoints" / "step=00008.ckpt")


def one_pixel(run: Path) -> None:
    path = next(run.glob("grids/step=00008/*.png"))
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.putpixel((3, 3), (1, 2, 3))
    image.save(path)


def no_last_point(run: Path) -> None:
    (path,) = run.glob("events.out*")
    path.write_bytes(path.read_bytes()[:-30])


def a_point_twice(run: Path) -> None:
    with SummaryWriter(str(run), filename_suffix=".2") as writer:
        writer.add_scalar("drift/tilt", 0.004, 8)


def cut_off(run: Path) -> None:
    path = run / "checkpoints" / "step=00008.ckpt"
    path.write_bytes(path.read_bytes()[:-100])


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit": (one_bit, "step=00008.ckpt differs in 1 values: state_dict.a"),
    "one pixel": (one_pixel, "differs in 1 values: pixels"),
    "one picture": (lambda run: next(run.glob("grids/step=00008/*.png")).unlink(), "is missing"),
    "last point": (no_last_point, "1 points are missing: drift/verdict/text_summary at 8"),
    "a point twice": (a_point_twice, "drift/tilt at 8"),
    "cut off": (cut_off, "is torn"),
    "half a page": (lambda run: (run / "page.html").write_text("<html><script"), "page.html is torn"),
    "a setting": (
        lambda run: (run / "config.yaml").write_text("seed_everything: 1\n"),
        "config.yaml differs",
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_found(loss: str, pair: tuple[Path, Path]) -> None:
    assert compare(*pair) == []
    lose, sentence = LOSSES[loss]
    lose(pair[1])
    assert any(sentence in line for line in compare(*pair)), compare(*pair)


def test_what_a_kill_may_leave(pair: tuple[Path, Path]) -> None:
    """A cut-off record ends a killed process's event file; a partial file is no torn one."""
    (events,) = pair[1].glob("events.out*")
    whole = events.read_bytes()
    events.write_bytes(whole[:-3])
    (pair[1] / "checkpoints" / "last.ckpt.partial").write_bytes(b"PK")
    assert torn(pair[1]) == []
    assert damage(events)
    assert partials(pair[1]) == ["checkpoints/last.ckpt.partial"]
    events.write_bytes(whole[:40] + b"\0" + whole[41:] + whole[:40])
    assert len(torn(pair[1])) == 1


def test_rounds_are_shared_out() -> None:
    rounds = schedule("all", 60)
    assert len(rounds) == len(set(rounds)) == 60
    met = {(kind, job.name) for kind, number in rounds if (job := job_of(kind, number, JOBS)) is not None}
    assert {job for kind, job in met if kind == "kill"} == {job.name for job in JOBS}


@pytest.mark.skipif(sys.platform != "linux", reason="the campaign watches folders through inotify")
def test_a_short_campaign_loses_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "scripts/campaign", "--folder", str(tmp_path / "campaign"), "--rounds", "2"]
    command += ["--kind", "kill", "--jobs", "export-delta", "--real", "0", "--report", str(report)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    rounds = json.loads(report.read_text())["rounds"]
    assert sorted(one["number"] for one in rounds) == [0, 1]
    assert all(one["losses"] == [] and one["fell"] for one in rounds)
    assert "2 rounds" in result.stdout
