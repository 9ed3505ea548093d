"""The real commands under a limit of their memory: halved batches, one sentence, the command that goes on."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.paths import ROOT
from PIL import Image

from lightning_drift.cli import main
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.stable_diffusion.loading import load_stable_diffusion
from lightning_drift.stable_diffusion.sampling import Sampling, dream_all

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits what Linux counts")

LIMIT = "helpers.full_memory.MemoryLimit"
FREE = r"(, and [\d.]+ [KM]iB were|; now that it has given up, [\d.]+ [KM]iB are) free"


def sentence(what: str, remedy: str) -> str:
    """A pattern of the error under a limit."""
    asked = rf"{what} (asked for [\d.]+ [KM]iB|needed) more{FREE} under this process's limit \(ulimit -d\)"
    return rf"error: the computer's memory is full\. {asked}\. {remedy}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    monkeypatch.delenv("LIGHTNING_DRIFT_RUN", raising=False)


def limited(*words: str, **limit: Any) -> list[str]:
    """What a command says that may take only so much more memory from a moment on, and ends with status 2."""
    return _run(
        *words, f"--trainer.callbacks={LIMIT}", *(f"--trainer.callbacks.{k}={v}" for k, v in limit.items())
    )


def _run(*words: str) -> list[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "MALLOC_MMAP_THRESHOLD_": str(2**17),  # what is freed goes back, and counts no more
    }
    process = subprocess.run(
        [sys.executable, "-m", "lightning_drift", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    said = process.stderr.splitlines()
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    return said


def test_a_fit_halves_its_grid_and_tells_of_the_step_that_does_not_fit_and_how_to_go_on(capsys: Any) -> None:
    of_the_grid = (
        f"{{class_path: {LIMIT}, init_args: {{mib: 110, at: on_train_start, until: on_train_batch_start}}}}"
    )
    of_a_step = f"{{class_path: {LIMIT}, init_args: {{mib: 12, at: on_train_batch_end, step: 2}}}}"
    said = _run(
        *("fit", "--clip_drift.steps=", "--trainer.max_steps=3", "--seed_grid.steps=0"),
        *("--seed_grid.groups={g: {prompts: a tree, seeds: 0-15}}", "--seed_grid.num_inference_steps=1"),
        *("--seed_grid.batch_size=16", "--seed_grid.height=128", "--seed_grid.width=128"),
        *("--data.resolution=128", "--data.allow_small=true", "--data.batch_size=4"),
        *("--step_checkpoint.last_every_n_steps=1", f"--trainer.callbacks=[{of_the_grid}, {of_a_step}]"),
    )
    halved = [line for line in said if "from here on" in line]
    assert re.search(
        r"was full with 16 pictures at a time; from here on there are [1248] \(seed_grid.", halved[0]
    )
    sampling = Sampling(num_inference_steps=1, height=128, width=128, batch_size=1)
    pictures = dream_all(load_stable_diffusion("pocket"), [("a tree", seed) for seed in (0, 5, 15)], sampling)
    run = Path("tb_logs/coffee/lr4e-5_000")
    for seed, alone in zip((0, 5, 15), pictures, strict=True):
        with Image.open(run / "grids" / "step=00000" / f"a-tree_seed{seed:04d}.png") as image:
            assert abs(np.asarray(image, dtype=int) - np.asarray(alone)).max() <= 1

    remedy = "Set data.batch_size 2 and trainer.accumulate_grad_batches 2: the same photos in every step"
    assert re.fullmatch(sentence(what="Training step 3", remedy=remedy), said[-1])
    assert "stopped at step 2 of 3, saved up to step 2; go on with: lightning-drift fit -c" in said[-2]
    command = shlex.split(said[-2].rpartition("lightning-drift ")[2])
    assert command[-2:] == ["--data.batch_size=2", "--trainer.accumulate_grad_batches=2"]
    assert main([*command, "--trainer.callbacks=null"]) == 0, capsys.readouterr().err
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 3


def test_a_dream_that_does_not_fit_by_itself_is_a_sentence() -> None:
    said = limited(
        *("predict", "--model.num_inference_steps=1", "--model.width=256", "--model.height=256"),
        *("--data.batch_size=4", "--data.seeds=0-3"),
        mib=8,
        at="on_predict_batch_start",  # threads have begun: one that has no room for its stack hangs CPython
    )
    remedy = r"No data\.batch_size is small enough: lower model\.width and model\.height, which are 256x256"
    assert re.fullmatch(sentence(what="One dream at a time", remedy=remedy), said[-1])
    assert "stopped with 0 pictures written to dreams; go on with: lightning-drift predict" in said[-2]


def test_large_photos_that_cannot_be_encoded_are_a_sentence() -> None:
    said = limited(
        *("fit", "--clip_drift.steps=", "--seed_grid.steps=", "--trainer.max_steps=1"),
        *("--data.resolution=512", "--data.allow_small=true"),
        mib=24,
        at="on_fit_start",
    )
    what, remedy = "Encoding the photos, each of 512x512,", r"Lower data\.resolution, which is 512"
    assert re.fullmatch(sentence(what=what, remedy=remedy), said[-1])
    assert "before a checkpoint was saved; start it again with: lightning-drift fit" in said[-2]
