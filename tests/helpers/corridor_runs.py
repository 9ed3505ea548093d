"""Run folders as fits leave them, written with TensorBoard's own writer, for the tests of the corridor."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lightning_drift.common.prompt_lists import slug
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import ZONES

PROMPTS = ("monumental, dramatic", "a green forest </script> <b>")
SEEDS = (0, 3)


def config(
    rate: float, steps: tuple[int, ...], subject: str = "coffee", prompts: Sequence[str] = PROMPTS
) -> dict[str, Any]:
    return {
        "seed_everything": 0,
        "trainer": {
            "max_steps": steps[-1],
            "precision": "32-true",
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": "tb_logs", "name": subject, "version": "x"},
            },
        },
        "model": {
            "init_args": {
                "pipeline": "pocket",
                "instance_prompt": "a photo of sks cup",
                "learning_rate": rate,
            }
        },
        "data": {"init_args": {"instance_dir": subject}},
        "step_checkpoint": {"steps": ",".join(map(str, steps)), "dirpath": None},
        "seed_grid": {
            "groups": {
                "dream": {"prompts": prompts[0], "seeds": "0,3"},
                "language": {"prompts": list(prompts[1:]), "seeds": "0,3"},
            }
        },
    }


def write_run(
    folder: Path,
    rate: float,
    steps: tuple[int, ...],
    verdicts: Mapping[int, tuple[str, str | None, float | None]] | None = None,
    side: int = 16,
    subject: str = "coffee",
    prompts: Sequence[str] = PROMPTS,
) -> Path:
    """A run with pictures at 0 and ``steps``; ``verdicts`` gives zone, borderline and position by step."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(rate, steps, subject, prompts)))
    writer = SummaryWriter(str(folder))
    for step in (0, *steps):
        for index, prompt in enumerate(prompts):
            for seed in SEEDS:
                path = folder / "grids" / f"step={step:05d}" / f"{slug(prompt)}_seed{seed:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shade = (
                    round(rate * 1e7) % 200 if step else 0
                )  # the base model's pictures are the same in all runs
                colour = (40 + 60 * index % 200, (step // 8) % 256, shade + 8 * seed)
                Image.new("RGB", (side, side), colour).save(path)
        writer.add_scalar("drift/weights/unet", step * rate, step)
        writer.add_scalar("drift/tilt", step / 2000, step)
        if verdicts is not None and step in verdicts:
            zone, border, position = verdicts[step]
            for part, shift in (("drift", 0.0), ("drift_low", -0.1), ("drift_high", 0.1)):
                writer.add_scalar(f"{part}/adherence", 1 - (position or 0.0) / 100 + shift, step)
            if position is not None:
                writer.add_scalar("drift/position", position, step)
            writer.add_scalar("drift/zone", ZONES.index(zone), step)
            writer.add_scalar("drift/borderline", ZONES.index(border) if border else -1, step)
            near = f" (borderline {border})" if border else ""
            place = "" if position is None else f", {position:.0f} of 100"
            writer.add_text("drift/verdict", f"**{zone}**{near}{place}. Because of {zone}.", step)
        if step:
            checkpoint = folder / "checkpoints" / f"step={step:05d}.ckpt"
            checkpoint.parent.mkdir(exist_ok=True)
            checkpoint.write_bytes(b"weights")
    writer.close()
    return folder


def write_reading(run: Path, step: int, measures: Mapping[str, Interval], clip: str = "pocket") -> None:
    """What was measured of a checkpoint, as a fit leaves it in ``drift/``."""
    (run / "drift").mkdir(exist_ok=True)
    content = {"clip": clip, "measures": {name: asdict(interval) for name, interval in measures.items()}}
    (run / "drift" / f"step={step:05d}.json").write_text(json.dumps(content))
