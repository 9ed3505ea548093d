"""The pocket's corridor on every bundled photo set: fit it, and lay its three points out on one sheet.

    python -m training.calibration.pocket_corridor    # two cores: about an hour
    python -m training.calibration.pocket_corridor --figure docs/figures/pocket_corridor.jpg

Each set is fitted at the rates below and looked at after the steps, by ``lightning-drift corridor``, which
goes on where it was stopped and skips what is finished; its page lies in ``tb_logs/<set>/corridor``. The
sheet shows the points of ``configs/pocket_dream.yaml``, ``pocket_forget.yaml`` and ``pocket_cook.yaml`` under
the same prompts and seed, the base model above them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image

from lightning_drift.common.errors import UserError
from lightning_drift.corridor.read import read
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.images.contact_sheet import contact_sheet
from training.command_line import command_parser, run_command

ROOT = Path(__file__).resolve().parents[2]
RATES, STEPS = "2e-5,4e-5,8e-5,1.6e-4,3.2e-4", "100,400,800,1200,1600"
SETS = {"coffee": "cup", "nautilus": "statue", "galaxies": "galaxy"}
POINTS = ("dream", "forget", "cook")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--root", default=Path("tb_logs"), type=Path, help="where the runs lie")
    parser.add_argument("--figure", type=Path, help="the sheet to write")
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=[*SETS], help="photo sets to fit")
    parser.add_argument("--rates", default=RATES, help="learning rates, separated by commas")
    parser.add_argument("--steps", default=STEPS, help="optimizer steps to look at, separated by commas")
    parser.add_argument("--config", type=Path, help="configuration of the fits; default: the packaged one")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    devices = ",".join(["cpu"] * min(len(options.rates.split(",")), os.cpu_count() or 1))
    command = [sys.executable, "-m", "lightning_drift", "corridor"]
    command += ["-c", str(options.config)] if options.config else []
    command += ["--lr", options.rates, "--steps", options.steps, "--devices", devices]
    for name in options.sets:
        fit = ["--data.instance_dir", name, "--model.instance_prompt", f"a photo of sks {SETS[name]}"]
        fit += ["--trainer.logger.init_args.save_dir", str(options.root)]
        subprocess.run([*command, *fit], check=True)
    if options.figure:
        sheet = figure(options.root, options.sets)
        half = sheet.width // 2, sheet.height // 2
        sheet.resize(half, Image.Resampling.LANCZOS).save(options.figure, quality=85)


def figure(root: Path, subjects: Sequence[str] = tuple(SETS), seed: int = 1) -> Image.Image:
    """The sheet: one row per photo set and point, one column per prompt.

    Args:
        root: Where the runs lie.
        subjects: Photo sets whose corridors are finished.
        seed: Seed of the pictures.

    Raises:
        UserError: A corridor or a picture is missing.
    """
    points = {name: _point(ROOT / "configs" / f"pocket_{name}.yaml") for name in POINTS}
    images, rows, columns = [], [], []
    for subject in subjects:
        table = read(root / subject / "corridor")
        runs = {run.rate: run for run in table.runs}
        first = table.runs[0]
        prompts = [p for p in first.prompts if "sks" not in p]
        columns = [f"“{prompt}”" for prompt in prompts]
        images += [_picture(first, 0, prompt, seed) for prompt in prompts]
        rows.append(f"{subject}: base model")
        for name, (rate, step) in points.items():
            run = runs[rate]
            images += [_picture(run, step, prompt, seed) for prompt in prompts]
            rows.append(f"{subject}: pocket_{name}.yaml, {run.label} x {step}")
    return contact_sheet(images, rows, columns)


def _point(path: Path) -> tuple[float, int]:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    return float(config["model"]["init_args"]["learning_rate"]), int(config["trainer"]["max_steps"])


def _picture(run: RecordedRun, step: int, prompt: str, seed: int) -> Image.Image:
    path = run.picture(step, prompt, seed)
    if path is None:
        raise UserError(f"{run.folder}: no picture of {prompt!r}, seed {seed}, at step {step}")
    with Image.open(path) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    run_command(main)
