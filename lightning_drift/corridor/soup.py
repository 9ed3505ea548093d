"""Soups: the mean weights of fits that differ in their seeds alone, measured as a row of the corridor.

A uniform soup (Wortsman et al. 2022, "Model soups", section 2): W = (W1 + ... + Wn) / n, of UNet and text
encoder. It is a checkpoint like those it is made of, but for the optimizer's state: it can be dreamed with
and exported, and not be trained further.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from lightning_drift.common.prompt_lists import slug
from lightning_drift.corridor.find_runs import SOUP
from lightning_drift.corridor.read import read
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.spread import siblings
from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator
from lightning_drift.drift.log import Reading
from lightning_drift.drift.verdict import judge
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.grid_sampling import Key
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import write_png
from lightning_drift.stable_diffusion.interpolation import base_of
from lightning_drift.stable_diffusion.loading import open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape, added up in float64; float32.

    >>> mean([torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])])
    tensor([1.5000, 2.0000])
    """
    total = tensors[0].double()
    for tensor in tensors[1:]:
        total = total + tensor.double()
    return (total / len(tensors)).float()


def make_soups(
    folder: Path, clip: str | None = None, base: str | None = None
) -> Iterator[tuple[str, Reading]]:
    """Make what is not there yet of a corridor's soups: one for each recipe of several seeds and each step.

    The pictures are those of the measured groups of the seed grid; the drift is measured as the fits measured
    it, against the base's statistics in their checkpoints.

    Args:
        folder: A corridor's folder, or one of several runs.
        clip: The CLIP that measured the fits; None for the pocket's own, or ViT-L/14.
        base: The base pipeline, if it no longer lies where the checkpoints say.

    Yields:
        The name of each that is made, and what was measured.

    Raises:
        UserError: No recipe has checkpoints of two seeds at one step, or a checkpoint cannot be used.
        OSError: A file cannot be written.
    """
    table = read(folder, own=True)
    groups = {id(runs): runs for runs in siblings(table).values() if len(runs) > 1}
    found = False
    for runs in groups.values():
        for step in table.steps:
            files = [file for run in runs if (file := run.checkpoint(step)) is not None]
            if len(files) == len(runs):
                found = True
                made = _soup(table.folder, runs, files, step, clip, base)
                if made is not None:
                    yield f"{runs[0].name}{SOUP}", made
    if not found:
        raise UserError(
            f"{folder} holds no recipe whose checkpoints of one step are there for several seeds; fit them "
            "with lightning-drift corridor --seeds 0-2",
            "folder",
        )


def _soup(
    folder: Path, runs: list[RecordedRun], files: list[Path], step: int, clip: str | None, base: str | None
) -> Reading | None:
    """Make and measure one soup; None if it is there."""
    place = folder / f"{runs[0].name}{SOUP}"
    target = place / "checkpoints" / f"step={step:05d}.ckpt"
    told = place / "drift" / f"step={step:05d}.json"  # written last
    seeds = [run.seed for run in runs]
    if told.exists() and target.exists() and read_checkpoint(target).get("recipe", {}).get("soup") == seeds:
        return None
    opened = [open_pipeline(str(file), base=base) for file in files]
    weights = {
        f"{part}.{name}": mean([one.weights[part].read(name) for one in opened])
        for part in TRAINED
        for name in opened[0].weights[part].shapes
    }
    first = read_checkpoint(files[0])
    recipe = {**first.get("recipe", {}), "soup": seeds}
    content = {"state_dict": weights, "recipe": recipe, "global_step": step}
    for key in ("pytorch-lightning_version", "callbacks"):  # the second is what the drift is measured against
        content |= {key: first[key]} if key in first else {}
    with atomic_write(target) as file:
        torch.save(content, file)
    del weights, content
    made = open_pipeline(str(target), base=base)
    evaluator = CheckpointEvaluator(made, base_of(made, base), clip)
    pictures: dict[Key, Image.Image] = {}
    parts = {part: made.weights[part] for part in TRAINED}
    measures = evaluator.measure(parts, f"the soup of step {step}", pictures.update)
    verdict = judge(measures, evaluator.thresholds)
    clip_name, eye = evaluator.clip.name, evaluator.eye.name if evaluator.eye else None
    reading = Reading(step, measures, verdict, "", {}, {}, evaluator.thresholds, clip_name, eye)
    _write(place, {**runs[0].config, "seed_everything": None, "soup": seeds}, reading, pictures)
    reading.save(told)
    return reading


def _write(
    place: Path, config: Mapping[str, Any], reading: Reading, pictures: Mapping[Key, Image.Image]
) -> None:
    """The run folder's files: the configuration, the pictures, and the reading in an event file."""
    with atomic_write(place / "config.yaml") as file:
        file.write(b"# The mean of several fits, made by lightning-drift corridor soup\n")
        file.write(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode())
    grid = place / "grids" / f"step={reading.step:05d}"
    for (prompt, seed), image in pictures.items():
        write_png(grid / f"{slug(prompt)}_seed{seed:04d}.png", Picture(None, "", image, {}))
    with SummaryWriter(str(place)) as writer:
        for tag, value in reading.scalars().items():
            writer.add_scalar(tag, value, reading.step)
        writer.add_text("drift/verdict", reading.markdown, reading.step)
