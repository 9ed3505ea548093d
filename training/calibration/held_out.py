"""What the loss on held-out photos, and what else the denoiser tells, say of the corridor.

    python -m training.calibration.fresh_subjects fresh
    python -m training.calibration.held_out fit held_out --photos fresh      # two minutes a fit
    python -m training.calibration.held_out read held_out --photos fresh     # half a minute a checkpoint
    python -m training.calibration.held_out labelled cells --photos fresh    # of `labelled_cells`
    python -m training.calibration.held_out table held_out                   # labels/held_out.csv
    python -m training.calibration.told_apart                                # what the tables say

``fit`` trains the pocket on six photos of a set, keeps the weights every hundred steps, and measures the loss
on these six and on the two held-out ones every fifty. ``read`` draws a checkpoint's pictures, as the packaged
configuration does but with ten steps for all, and keeps the whole reading: verdict, measures, and what
explains. ``labelled`` asks the denoiser of the labelled cells likewise, without pictures and without held-out
photos, and writes labels/denoiser.csv. All go on where they were stopped, and compute on one thread.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lightning_drift.common.modules import eval_mode
from lightning_drift.drift.evaluator import DriftEvaluator
from lightning_drift.drift.log import Reading
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.photo_loss import photo_errors
from lightning_drift.drift.photo_base import PhotoBase
from lightning_drift.drift.verdict import Thresholds
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.stable_diffusion.autoencoder import encode_pictures
from lightning_drift.stable_diffusion.sampling import Sampling, dream_all
from training.calibration.labelled_cells import (
    FRESH,
    LABELS,
    WORDS,
    cell_name,
    fit_pocket,
    keep,
    labelled_cells,
    probes,
)
from training.command_line import command_parser, run_command, use_threads

SETS = ("nautilus", "cat", "galaxies", "rocket", "coffee", "tissue")
RATES = ("1e-4", "2e-4")
"""Of the pocket: a rate at which dreams end within 1600 steps, and one at which the corridor is left."""

LAST, EVERY, KEPT = 1600, 50, 100
"""The steps of a fit, how often the loss is measured, and how often the weights are kept."""

HELD_OUT = 2
PICTURES = ("language", "spread", "drift_prompt", "tilt", "pull")
"""Measures of the pictures that go into the table."""


# -- fits -----------------------------------------------------------------------------------------------


class Watch(Callback):
    """Measures the errors on trained and held-out photos, and keeps weights.

    Args:
        folder: Where they go.
        fit: The fit's photo set and rate.
    """

    def __init__(self, folder: Path, fit: tuple[str, str]) -> None:
        self.folder, self.fit = folder, fit
        self.errors: dict[str, Tensor] = {}
        self.latents: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode the photos, and measure the base."""
        module: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        sides = {"trained": data.squares(), "held_out": data.held_out_squares()}
        self.latents = {
            name: encode_pictures(module.stable_diffusion, squares) for name, squares in sides.items()
        }
        self._measure(module, 0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Measure and keep where it is due."""
        step = trainer.global_step
        if step % EVERY == 0:
            self._measure(pl_module, step)
        if step % KEPT == 0:
            keep(
                self.folder / "weights" / f"{cell_name(*self.fit, step)}.safetensors", pl_module.state_dict()
            )

    def _measure(self, module: Any, step: int) -> None:
        with eval_mode(module.unet, module.text_encoder):
            for name, latents in self.latents.items():
                self.errors[f"{name}/{step:05d}"] = photo_errors(
                    module.stable_diffusion, module.scheduler, latents, module.input_ids
                )


def fit(name: str, rate: str, folder: Path, photos: Path, last: int = LAST) -> None:
    """Make a fit, and keep its curves and weights, unless they are there."""
    curves = folder / "curves" / f"{name}_{rate}.safetensors"
    if curves.exists():
        return
    watch = Watch(folder, (name, rate))
    fit_pocket(name, rate, last, photos_of(name, photos), watch, folder)
    keep(curves, watch.errors)
    print(f"{name} {rate}: fitted", flush=True)


def photos_of(name: str, photos: Path, held_out: int = HELD_OUT) -> InstanceImages:
    """The data of a photo set: a folder, or a bundled set, without its held-out photos."""
    return InstanceImages(str(photos / name) if name in FRESH else name, cache_dir=None, held_out=held_out)


# -- readings -------------------------------------------------------------------------------------------


class Reader:
    """Reads checkpoints of the pocket as a fit reads its milestones, but all pictures have ten steps."""

    def __init__(self) -> None:
        self.evaluator = DriftEvaluator(probes(), "pocket", Thresholds(), True)
        self.module = untrained("")
        clip = self.evaluator.clip
        assert clip is not None
        self.pictures = self._draw()  # before any weights are loaded
        features = self.evaluator.features([*self.pictures.values()], self.module.device)
        settings = {"clip_drift.clip": clip.hash}
        self.base = self.evaluator.base(settings, self.pictures, features, self.module, nullcontext)

    def _draw(self) -> dict[tuple[str, int], Image.Image]:
        keys, sampling = self.evaluator.probes.keys, Sampling(num_inference_steps=10, batch_size=32)
        assert self.module.stable_diffusion is not None
        return dict(zip(keys, dream_all(self.module.stable_diffusion, keys, sampling), strict=True))

    def photos(self, name: str, photos: Path, held_out: int) -> tuple[PhotoBase, Features]:
        """What the base makes of a set's photos, and their features."""
        data = photos_of(name, photos, held_out)
        data.resolution = self.module.resolution
        squares, others = data.squares(), data.held_out_squares()
        known = self.evaluator.photos.base({}, squares, others, untrained(WORDS[name]), nullcontext)
        return known, self.evaluator.features(squares, self.module.device)

    def load(self, weights: Path) -> None:
        """Take a checkpoint's weights."""
        self.module.load_state_dict(load_file(weights))

    def reading(self, step: int, known: PhotoBase, photos: Features) -> Reading:
        """The whole reading of the weights that are loaded."""
        pictures = self._draw()
        features = self.evaluator.features([*pictures.values()], self.module.device)
        explaining = self.evaluator.explaining(self.base, pictures, self.module, nullcontext)
        asked = self.evaluator.photos.milestone(known, self.module, nullcontext)
        return self.evaluator.read(step, features, self.base, photos, explaining, {}, asked)

    def denoiser(self, known: PhotoBase) -> dict[str, float]:
        """What explains without pictures, and the loss on the photos."""
        base = replace(self.base, energies={k: v for k, v in self.base.energies.items() if k != "texture"})
        asked = self.evaluator.photos.milestone(known, self.module, nullcontext)
        explaining = self.evaluator.explaining(base, {}, self.module, nullcontext)
        return {"photo_loss": asked.loss.value, **asked.explaining, **explaining}


def untrained(word: str) -> DreamBooth:
    """The pocket with the instance prompt of a subject."""
    module = DreamBooth("pocket", f"a photo of sks {word}", weight_change_every_n_steps=0)
    module.configure_model()
    return module.eval()


def read(
    name: str, rates: Sequence[str], steps: Sequence[int], folder: Path, photos: Path, reader: Reader
) -> None:
    """Keep the readings of a set's checkpoints that are not there yet."""
    known: tuple[PhotoBase, Features] | None = None
    for rate in rates:
        for step in steps:
            cell = cell_name(name, rate, step)
            weights, file = folder / "weights" / f"{cell}.safetensors", folder / "readings" / f"{cell}.json"
            if file.exists() or not weights.exists():
                continue
            known = known or reader.photos(name, photos, HELD_OUT)
            reader.load(weights)
            reading = reader.reading(step, *known)
            reading.save(file)
            print(f"{cell}: {reading.markdown}", flush=True)


def ask_labelled(cells: Path, photos: Path, to: Path, names: Sequence[str]) -> None:
    """Write what the denoiser of the labelled cells tells to a table, with their labels."""
    reader, rows = Reader(), []
    for name in names:
        known, _ = reader.photos(name, photos, 0)
        for cell in sorted(labelled_cells(name), key=lambda cell: (float(cell.rate or 0), cell.step)):
            weights = cells / "weights" / f"{cell_name(name, cell.rate, cell.step)}.safetensors"
            if not cell.rate or not weights.exists():
                continue
            reader.load(weights)
            pictures = {measure: cell.measures[measure].value for measure in PICTURES}
            told = {"label": "/".join(cell.labels), **pictures, **reader.denoiser(known)}
            rows.append({"set": name, "rate": cell.rate, "step": cell.step} | told)
            print(f"{name} {cell.rate} {cell.step}: asked", flush=True)
    write(rows, to)


# -- tables ---------------------------------------------------------------------------------------------


def table(folder: Path) -> list[dict[str, Any]]:
    """A row for each checkpoint that was read: verdict, measures, and the loss at the steps before it."""
    rows = []
    for file in sorted(folder.glob("readings/*.json")):
        name, rate, step = file.stem.split("_")
        reading = json.loads(file.read_text(encoding="utf-8"))
        curves = load_file(folder / "curves" / f"{name}_{rate}.safetensors")
        values = {measure: reading["measures"][measure]["value"] for measure in (*PICTURES, "photo_loss")}
        rows.append(
            {
                "set": name,
                "rate": rate,
                "step": int(step),
                "zone": reading["zone"],
                "position": reading["position"],
                **values,
                **on_the_way(curves, int(step)),
                **reading["explaining"],
            }
        )
    return sorted(rows, key=lambda row: (SETS.index(row["set"]), float(row["rate"]), row["step"]))


def on_the_way(curves: dict[str, Tensor], step: int) -> dict[str, float]:
    """What the loss of all photos tells of a step and of those before it.

    Args:
        curves: Errors by kind and step, shape (photos, levels).
        step: The step.

    Returns:
        ``held_out``: the loss on the held-out photos; ``turn``: that over the least so far; ``past_turn``:
        the steps since the least; ``variance``: of the loss on the trained photos over the last five times,
        relative to that of all times so far (DVAR: Voronov et al., NeurIPS 2023, arXiv:2302.04841).
    """

    def losses(kind: str) -> Tensor:
        logs = [
            (errors.log() - curves[f"{kind}/00000"].log()).mean()
            for key, errors in sorted(curves.items())
            if key.startswith(f"{kind}/") and int(key.split("/")[1]) % EVERY == 0
            if int(key.split("/")[1]) <= step
        ]
        return torch.stack(logs).exp()

    held_out, trained = losses("held_out"), losses("trained")
    return {
        "held_out": held_out[-1].item(),
        "turn": (held_out[-1] / held_out.min()).item(),
        "past_turn": float((len(held_out) - 1 - int(held_out.argmin())) * EVERY),
        "variance": (trained[-5:].var() / trained.var()).item(),
    }


def write(rows: Sequence[dict[str, Any]], to: Path) -> None:
    """Write a table, with numbers of four digits."""
    with to.open("w", newline="", encoding="utf-8") as file:
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, list(names), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("command", choices=["fit", "read", "labelled", "table"])
    parser.add_argument("folder", type=Path, help="where curves, weights and readings lie")
    parser.add_argument("--photos", type=Path, default=Path("fresh"), help="folder of the fresh sets")
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=[*WORDS], help="photo sets")
    parser.add_argument("--rates", nargs="+", default=[*RATES], help="learning rates")
    parser.add_argument("--every", type=int, default=KEPT, help="steps between checkpoints that are read")
    parser.add_argument("--to", type=Path, default=LABELS, help="folder of the tables")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    use_threads(1)
    if options.command == "fit":
        for name in options.sets:
            for rate in options.rates:
                fit(name, rate, options.folder, options.photos)
    elif options.command == "read":
        reader, steps = Reader(), range(options.every, LAST + 1, options.every)
        for name in options.sets:
            read(name, options.rates, steps, options.folder, options.photos, reader)
    elif options.command == "labelled":
        ask_labelled(options.folder, options.photos, options.to / "denoiser.csv", options.sets)
    else:
        write(table(options.folder), options.to / "held_out.csv")


if __name__ == "__main__":
    run_command(main)
