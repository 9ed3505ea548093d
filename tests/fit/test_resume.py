"""Kill -9 at random moments, on the real command and the real stack."""

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.bits import assert_same_bits
from helpers.commands import OPTIONS, STEPS, finish, run_folder, scalars, start, started
from PIL import Image

from lightning_drift.fit.checkpoint_file import read_checkpoint


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    while started:
        process = started.pop()
        process.kill()
        process.wait()


def kill_when(process: subprocess.Popen[bytes], moment: object) -> None:
    """Kill as soon as ``moment()`` is true; the run must not have ended before."""
    deadline = time.monotonic() + 300
    while not moment():  # type: ignore[operator]
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_run_killed_twice_ends_like_the_unbroken_one(tiny_sd: str, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    unbroken, killed = (start(folder, f"--model.pipeline={tiny_sd}", *OPTIONS) for folder in (whole, broken))

    def checkpoints() -> Path:
        return run_folder(broken) / "checkpoints"

    # First in the middle of a save, of a step not known beforehand.
    saves = random.Random(time.time_ns()).randint(2, 7)
    seen: set[int] = set()

    def saving() -> bool:
        for path in (broken / "tb_logs").glob("coffee/*/checkpoints/*.partial"):
            with contextlib.suppress(FileNotFoundError):  # finished and renamed meanwhile
                seen.add(path.stat().st_ino)
        return len(seen) >= saves

    kill_when(killed, saving)
    last = checkpoints() / "last.ckpt"
    first_stop = read_checkpoint(last)["global_step"]
    assert 1 <= first_stop < STEPS

    # Then at a random moment after the second milestone's grid.
    config = f"{run_folder(broken)}/config.yaml"
    killed = start(broken, "-c", config, "--ckpt_path", "last")
    kill_when(
        killed,
        lambda: (
            (run_folder(broken) / "grids" / "dream_step=00007.png").exists()
            and time.sleep(random.random() / 2) is None
        ),
    )
    second_stop = read_checkpoint(last)["global_step"]
    assert first_stop <= second_stop < STEPS

    finish(start(broken, "-c", config, "--ckpt_path", "last"), broken)
    finish(unbroken, whole)

    runs = run_folder(whole), run_folder(broken)
    assert_same_bits(*(read_checkpoint(run / "checkpoints" / "last.ckpt") for run in runs))
    assert not list(runs[1].rglob("*.partial"))
    for step in (0, 7, 16, STEPS):
        grids = [np.asarray(Image.open(run / "grids" / f"dream_step={step:05d}.png")) for run in runs]
        assert np.array_equal(*grids), step
        readings = [(run / "drift" / f"step={step:05d}.json").read_bytes() for run in runs]
        assert readings[0] == readings[1], step  # measured against the same base
    drift = [(run / "grids" / "dream_drift.png").read_bytes() for run in runs]
    assert drift[0] == drift[1]  # the sheet over all milestones, those before the kills included
    # The event files tell one story: every point once, the same values.
    ours, theirs = scalars(runs[0]), scalars(runs[1])
    assert [step for step, _ in theirs["train/loss"]] == list(range(1, STEPS + 1))
    assert ours == theirs
    assert [step for step, _ in theirs["drift/language"]] == [0, 7, 16, STEPS]
    assert [step for step, _ in theirs["drift/text"]] == [0, 5, 7, 10, 15, 16, 20, STEPS]
    assert len(list(runs[1].glob("config.resume-*.yaml"))) >= 1
