"""The labelled cells again: their weights, and features of their pictures at several numbers of steps.

    python -m training.calibration.fresh_subjects fresh
    python -m training.calibration.labelled_cells fit cells --photos fresh     # a minute and a half a fit
    python -m training.calibration.labelled_cells draw cells --photos fresh    # half a minute a cell

``fit`` repeats the fits of training/calibration/labels as the packaged configuration makes them, without a
grid, and keeps the weights of every labelled step, 24 MB each. ``draw`` makes from them the pictures that the
packaged configuration measures, once for each number of sampling steps, and keeps their features: what
`training.calibration.fewer_pictures` judges. ``--language 50 10`` draws the language prompts as the
labelled cells had them too, which takes longest; ``--language dpmpp_2m:4`` draws them by another sampler, one
of `training.calibration.solvers`. Both go on where they were stopped, compute on one thread, and take
``--sets`` so that processes can share the work. What is not fitted yet is passed over by ``draw``.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_drift import assets
from lightning_drift.common.prompt_lists import read_prompts
from lightning_drift.drift.evaluator import DriftEvaluator
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.probes import Probes, find_probes, instance_photos
from lightning_drift.drift.verdict import DECIDING, Thresholds
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.stable_diffusion.sampling import Sampling, dream_all
from training.calibration import pocket_corridor
from training.calibration.solvers import SOLVERS, dream_by
from training.command_line import command_parser, run_command, use_threads

Measures = Mapping[str, Interval]
LABELS = Path(__file__).parent / "labels"
FRESH = {name: name for name in ("cat", "tissue", "motorcycle", "retina", "rocket", "astronaut")}
WORDS = FRESH | pocket_corridor.SETS
"""What the instance prompt calls the subject of each photo set, the fresh ones first."""

SEEDS = {"dream": 8, "language": 4}
"""Seeds of each prompt that the labelled cells were measured with, from 0 on."""

STEPS = {"dream": (50, 10), "language": (10, 8, 6)}
"""Sampling steps of each group, in the order in which its pictures are drawn."""


class Way(NamedTuple):
    """How pictures are drawn: sampling steps, and one of ``SOLVERS`` if it is not the package's DDIM."""

    steps: int
    solver: str = "ddim"

    def __str__(self) -> str:
        """What files of such pictures are called."""
        return str(self.steps) if self.solver == "ddim" else f"{self.solver}_{self.steps}"

    @classmethod
    def read(cls, text: str) -> Way:
        """From steps, such as 10, or a sampler and steps, such as dpmpp_2m:4.

        Raises:
            argparse.ArgumentTypeError: It is neither.
        """
        solver, _, steps = text.rpartition(":")
        if not steps.isdecimal() or solver not in ("", *SOLVERS):
            names = ", ".join(SOLVERS)
            raise argparse.ArgumentTypeError(f"{text!r} is not steps, nor one of {names}, a colon and steps")
        return cls(int(steps), solver or "ddim")


@dataclass
class Cell:
    """A labelled cell.

    Attributes:
        code: What the labels call it.
        subject: Its photo set.
        rate: Its learning rate as it is written; empty for the base.
        step: Optimizer steps.
        labels: The zone that was seen first, and a second opinion if there was one.
        measures: What it measured when it was labelled.
    """

    code: str
    subject: str
    rate: str
    step: int
    labels: list[str]
    measures: Measures


def labelled_cells(subject: str) -> list[Cell]:
    """The labelled cells of a photo set, the base among them."""

    def rows(kind: str) -> list[dict[str, str]]:
        with (LABELS / f"{subject}_{kind}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    labels = {row["code"]: row["label"].split("/") for row in rows("labels")}
    cells = []
    for row in rows("cells"):
        measures = {name: Interval(*map(float, row[name].split(";"))) for name in DECIDING}
        cells.append(Cell(row["code"], subject, row["rate"], int(row["step"]), labels[row["code"]], measures))
    return cells


def labelled(name: str) -> list[tuple[str, int]]:
    """Rate and step of every labelled cell of a photo set but the base, in their order along the corridor."""
    cells = [(cell.rate, cell.step) for cell in labelled_cells(name) if cell.rate]
    return sorted(cells, key=lambda cell: (float(cell[0]), cell[1]))


def cell_name(name: str, rate: str, step: int) -> str:
    """What the files of a cell are called; the base, without a rate, is the same for all sets."""
    return f"{name}_{rate}_{step:05d}" if rate else "base"


def probes() -> Probes:
    """The pictures that the labelled cells were measured on: the packaged prompts, with ``SEEDS``."""
    path = assets.DEFAULTS / "fit.yaml"
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["seed_grid"]["groups"]
    chosen = {
        role: (read_prompts(groups[role]["prompts"], role), list(range(seeds)))
        for role, seeds in SEEDS.items()
    }
    return find_probes(chosen, "dream", "language", "")


def keep(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file that is complete at its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")  # processes may share a folder
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(file)


# -- fits -----------------------------------------------------------------------------------------------


class KeepWeights(Callback):
    """Keeps nothing but the weights, as they are after some steps."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        self.files = files

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write them where a step is due."""
        if (file := self.files.get(trainer.global_step)) is not None:
            keep(file, pl_module.state_dict())


def fit(name: str, folder: Path, photos: Path, rates: Sequence[str] | None, until: int | None) -> None:
    """Make the fits of a photo set that are not there yet.

    Args:
        name: The photo set.
        folder: Where the weights go.
        photos: Folder of the fresh sets.
        rates: Learning rates, as the labels write them; None for all.
        until: Leave out what comes after this step; None for nothing.
    """
    cells = [
        (rate, step)
        for rate, step in labelled(name)
        if (rates is None or rate in rates) and (until is None or step <= until)
    ]
    for rate in dict.fromkeys(rate for rate, _ in cells):
        steps = [step for own, step in cells if own == rate]
        files = {step: folder / "weights" / f"{cell_name(name, rate, step)}.safetensors" for step in steps}
        if all(file.exists() for file in files.values()):
            continue
        fit_pocket(name, rate, max(steps), photos_of(name, photos), KeepWeights(files), folder)
        print(f"{name} {rate}: kept the weights of {', '.join(map(str, steps))}", flush=True)


def fit_pocket(name: str, rate: str, steps: int, data: InstanceImages, watch: Callback, folder: Path) -> None:
    """Fit the pocket on a photo set as the labelled cells were fitted, without grids and checkpoints.

    Args:
        name: The set.
        rate: The learning rate.
        steps: Optimizer steps.
        data: Its photos.
        watch: What keeps something of the fit.
        folder: For what the Trainer writes.
    """
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        precision="32-true",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[watch],
    )
    module = DreamBooth("pocket", f"a photo of sks {WORDS[name]}", learning_rate=float(rate))
    trainer.fit(module, datamodule=data)


def photos_of(name: str, photos: Path) -> InstanceImages:
    """The data of a photo set: a folder, or a bundled set."""
    return InstanceImages(str(photos / name) if name in FRESH else name, cache_dir=None)


# -- pictures -------------------------------------------------------------------------------------------


class Drawing:
    """Draws the measured pictures and keeps their features.

    Args:
        folder: Where the weights lie and the features go.
        ways: How to draw each group.
    """

    def __init__(self, folder: Path, ways: Mapping[str, Sequence[Way]]) -> None:
        self.folder, self.ways, self.probes = folder, ways, probes()
        self.evaluator = DriftEvaluator(self.probes, "pocket", Thresholds(), False)
        self.module = DreamBooth("pocket", weight_change_every_n_steps=0)
        self.module.configure_model()
        self.module.eval()
        assert self.evaluator.clip is not None
        texts = self.evaluator.clip.embed_texts(list(self.probes.roles))
        keep(self.features("texts"), {"texts": texts})

    def features(self, name: str) -> Path:
        """The file of that name's features."""
        return self.folder / "features" / f"{name}.safetensors"

    def files(self, cell: str) -> dict[Path, tuple[str, Way]]:
        """The files of a cell's pictures, with the group and how it is drawn."""
        return {
            self.features(f"{cell}_{role}_{way}"): (role, way)
            for role, ways in self.ways.items()
            for way in ways
        }

    def pictures(self, cell: str) -> None:
        """Keep the features of what the module draws now, where they are not there yet."""
        assert self.module.stable_diffusion is not None
        for file, (role, way) in self.files(cell).items():
            if file.exists():
                continue
            keys = [key for key in self.probes.keys if self.probes.roles[key[0]] == role]
            sampling = Sampling(
                num_inference_steps=way.steps, batch_size=32
            )  # rounds otherwise than 8, which fits have
            draw = dream_all if way.solver == "ddim" else partial(dream_by, way.solver)
            drawn = draw(self.module.stable_diffusion, keys, sampling)
            keep(file, self.evaluator.features(drawn, torch.device("cpu")).tensors())

    def photo_set(self, name: str, photos: Path) -> None:
        """Keep the features of a set's photos, of its cells' pictures and their losses on the photos."""
        data = photos_of(name, photos)
        data.resolution = self.module.resolution
        squares = instance_photos(data)
        keep(self.features(f"{name}_photos"), self.evaluator.features(squares, torch.device("cpu")).tensors())
        untrained = DreamBooth("pocket", f"a photo of sks {WORDS[name]}", weight_change_every_n_steps=0)
        untrained.configure_model()
        before = self.evaluator.photos.base({}, squares, [], untrained, nullcontext)
        for rate, step in labelled(name):
            cell = cell_name(name, rate, step)
            weights = self.folder / "weights" / f"{cell}.safetensors"
            wanted = [*self.files(cell), known := self.features(f"{cell}_loss")]
            if not weights.exists() or all(file.exists() for file in wanted):
                continue
            self.module.load_state_dict(load_file(weights))
            self.pictures(cell)
            loss = self.evaluator.photos.loss(before, self.module, nullcontext)
            interval = torch.tensor([loss.value, loss.low, loss.high], dtype=torch.float64)
            keep(known, {"photo_loss": interval})
            print(f"{cell}: drawn", flush=True)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, what in (("fit", "keep the cells' weights"), ("draw", "keep their pictures' features")):
        own = commands.add_parser(command, help=what)
        own.add_argument("folder", type=Path, help="where weights and features lie")
        own.add_argument("--photos", type=Path, default=Path("fresh"), help="folder of the fresh sets")
        own.add_argument("--sets", nargs="+", default=[*WORDS], choices=[*WORDS], help="photo sets")
    fits = commands.choices["fit"]
    fits.add_argument("--rates", nargs="+", help="learning rates, as the labels write them; default: all")
    fits.add_argument("--until", type=int, help="leave out what comes after this step")
    for role, steps in STEPS.items():
        what = f"sampling steps of the {role} group, after a sampler's name and a colon if it is not DDIM"
        own.add_argument(f"--{role}", nargs="*", type=Way.read, default=[*map(Way, steps)], help=what)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    use_threads(1)
    if options.command == "fit":
        for name in options.sets:
            fit(name, options.folder, options.photos, options.rates, options.until)
        return
    drawing = Drawing(options.folder, {role: getattr(options, role) for role in STEPS})
    drawing.pictures("base")  # before any weights are loaded
    for name in options.sets:
        drawing.photo_set(name, options.photos)


if __name__ == "__main__":
    run_command(main)
