"""The export command as a process of its own, and what other commands make of its files."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_drift.export.check import round_to_half_
from lightning_drift.stable_diffusion.loading import load_stable_diffusion
from lightning_drift.stable_diffusion.sampling import Sampling, dream_all


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_drift", *words],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predict_dreams_from_a_single_file_of_the_pocket_as_its_card_says(tmp_path: Path) -> None:
    out = run(tmp_path, "export", "--ckpt_path", "pocket", "--to", "x")
    assert out.startswith("wrote x/pocket.safetensors (12.")
    card = (tmp_path / "x" / "pocket.README.md").read_text()
    (line,) = [line.strip() for line in card.splitlines() if "lightning-drift predict" in line]
    options = ["--data.prompts", "a red ball", "--data.seeds", "3-4", "--model.num_inference_steps", "3"]
    run(tmp_path / "x", *shlex.split(line)[1:], *options, "--trainer.accelerator", "cpu")
    model = load_stable_diffusion("pocket")
    round_to_half_(model)
    pictures = dream_all(model, [("a red ball", 3), ("a red ball", 4)], Sampling(num_inference_steps=3))
    for seed, picture in zip((3, 4), pictures, strict=True):
        with Image.open(tmp_path / "x" / "dreams" / f"a-red-ball_seed{seed:04d}.png") as image:
            assert image.info["parameters"].endswith(", Model: pocket, RNG: CPU")
            apart = np.abs(np.asarray(image, int) - np.asarray(picture, int))
        assert apart.max() <= 1
