"""What a fine-tune gives that denoises beside its base, held against the drift dial.

    python -m training.calibration.fresh_subjects fresh
    lightning-drift corridor --lr 1e-4 --steps 200,400,600,800,1000,1200,1400,1600 --seeds 0-2 --name seeds
    lightning-drift corridor --lr 1.6e-4 --steps 1500 --name cooked              # three sets
    python -m training.calibration.beside_base read tb_logs/coffee/seeds ...     # four minutes a checkpoint
    python -m training.calibration.beside_base table

``read`` takes two checkpoints of each corridor's first fit, one whose verdict is forgetting and the last one,
and measures them as their fit did: at several drifts of the weights, and at several sampling drifts. It goes
on where it was stopped. ``table`` says, for each setting, what it keeps of language and how far it pulls
towards the photos, and how much more than the dial at the same language, with 90 % intervals over the
checkpoints.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_drift.corridor.read import read
from lightning_drift.corridor.recorded_run import CorridorCell
from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator
from lightning_drift.drift.verdict import judge
from lightning_drift.fit.grid_files import save_pictures
from lightning_drift.fit.grid_sampling import Images
from lightning_drift.stable_diffusion.interpolation import base_of, interpolated, load_base_beside
from lightning_drift.stable_diffusion.loading import StableDiffusion, open_pipeline
from lightning_drift.stable_diffusion.sampling_drift import read_sampling_drift
from lightning_drift.stable_diffusion.with_base import WithBase
from training.calibration.labelled_cells import LABELS
from training.command_line import command_parser, run_command, use_threads

TABLE = LABELS / "beside_base.csv"
DIAL = ("0.3", "0.45", "0.6", "0.75", "0.9", "1")
SAMPLING = {
    "everywhere": ("0.5", "0.7", "0.85", "1.5"),
    "layout by the base": ("0/1@0.1", "0/1@0.2", "0/1@0.3", "0/1@0.5", "0..1"),
    "layout by the photos": ("1/0@0.2", "1/0@0.4", "1/0@0.6", "1..0"),
}
COLUMNS = (
    "set",
    "step",
    "verdict",
    "kind",
    "setting",
    "zone",
    "position",
    "language",
    "pull",
    "drift_prompt",
)


class BesideEvaluator(CheckpointEvaluator):
    """Measures a checkpoint's weights that denoise beside their base."""

    beside: WithBase | None = None

    def _pictures(
        self, model: StableDiffusion, title: str, made: Callable[[Images], object]
    ) -> list[Image.Image]:
        from contextlib import nullcontext

        images = self._sampler.sample(model, self.keys, nullcontext, made, beside=self.beside)
        return [images[key] for key in self.keys]


def chosen(folder: Path) -> list[CorridorCell]:
    """Of a corridor's first run the second cell that forgets, and the last one."""
    table = read(folder, own=True)
    cells = [table.cells[table.runs[0].name, step] for step in table.steps]
    forgetting = [cell for cell in cells if cell.zone == "forgetting"]
    return [forgetting[min(1, len(forgetting) - 1)], cells[-1]] if forgetting else [cells[-1]]


def measure(folder: Path, cell: CorridorCell, done: list[dict[str, str]], pictures: Path | None) -> None:
    """Append the rows of a cell to the table, one by one."""
    name = folder.parent.name
    known = {
        (row["kind"], row["setting"]) for row in done if (row["set"], row["step"]) == (name, f"{cell.step}")
    }
    wanted = [("dial", value) for value in DIAL]
    wanted += [(kind, value) for kind, values in SAMPLING.items() for value in values]
    if {*wanted} <= known:
        return
    opened = open_pipeline(str(cell.checkpoint))
    base = base_of(opened)
    evaluator = BesideEvaluator(opened, base, None)
    beside = load_base_beside(evaluator._loaded(), opened, base)
    for kind, setting in wanted:
        if (kind, setting) in known:
            continue
        dial = float(setting) if kind == "dial" else 1.0
        evaluator.beside = (
            None if kind == "dial" else WithBase(beside, read_sampling_drift(setting, "setting"))
        )

        def take(
            images: Images, place: str = f"{name}_{cell.step}_{kind}_{setting.replace('/', '_')}"
        ) -> None:
            if pictures is not None:
                save_pictures(pictures / place, cell.step, images)

        found = evaluator.measure(interpolated(opened, base, dial).weights, setting, take)
        found.pop("photo_loss", None)  # of the weights alone, and not of what denoises together
        verdict = judge(found, evaluator.thresholds)
        values: tuple[Any, ...] = (name, cell.step, cell.zone, kind, setting, verdict.zone, verdict.position)
        values += tuple(round(found[each].value, 4) for each in COLUMNS[-3:])
        new = not TABLE.exists()
        with open(TABLE, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS, values] if new else [values])
        print(*values, flush=True)


def rows() -> list[dict[str, str]]:
    """What was measured."""
    if not TABLE.exists():
        return []
    with open(TABLE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def gains(found: Sequence[dict[str, str]]) -> dict[str, dict[tuple[str, str], float]]:
    """For each setting beside the base its pull beyond the dial's at the same language, by set and step.

    Between the drifts of the dial that were measured, and the base, the dial's pull is taken to be linear in
    its language, as `export.drift_search` does; what has less language than any of them is left out.
    """
    told: dict[str, dict[tuple[str, str], float]] = {}
    for cell in dict.fromkeys((row["set"], row["step"]) for row in found):
        own = [row for row in found if (row["set"], row["step"]) == cell]
        line = [(float(row["language"]), float(row["pull"])) for row in own if row["kind"] == "dial"]
        languages, pulls = zip(*sorted([(1.0, 0.0), *line]), strict=True)
        for row in own:
            if row["kind"] != "dial" and float(row["language"]) >= min(languages):
                expected = float(np.interp(float(row["language"]), languages, pulls))
                told.setdefault(row["setting"], {})[cell] = float(row["pull"]) - expected
    return told


def interval(values: Sequence[float], digits: int = 2) -> str:
    """A mean with its 90 % interval, by 2,000 resamples."""
    source = np.random.default_rng(0)
    means = source.choice(np.asarray(values), (2000, len(values))).mean(1)
    low, high = np.quantile(means, (0.05, 0.95))
    mean, low, high = (f"{value:+.{digits}f}" for value in (np.mean(values), low, high))
    return f"{mean} ({low} to {high})"


def table() -> str:
    """The settings in a table of Markdown: forgetting checkpoints, then cooked ones."""
    found = rows()
    parts = [[row for row in found if row["verdict"] == verdict] for verdict in ("forgetting", "cooked")]
    heads = ("dreams", "language", "pull", "pull beyond the dial's")
    lines = [f"| setting | {' | '.join([*heads, *(f'cooked: {head}' for head in heads)])} |"]
    lines.append("| --- " * (1 + 2 * len(heads)) + "|")
    for kind, settings in {"dial": DIAL, **SAMPLING}.items():
        for setting in settings:
            cells = [cell for part in parts for cell in _cells(part, kind, setting)]
            lines.append(f"| {kind} {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(found: Sequence[dict[str, str]], kind: str, setting: str) -> list[str]:
    """A setting's part of a line."""
    own = [row for row in found if (row["kind"], row["setting"]) == (kind, setting)]
    if not own:
        return [""] * 4
    dreams = sum(row["zone"] == "dreaming" for row in own)
    language, pull = (np.mean([float(row[name]) for row in own]) for name in ("language", "pull"))
    more = [*gains(found).get(setting, {}).values()] if kind != "dial" else []
    beyond = interval(more) if len(more) == len(own) else ""
    return [f"{dreams} of {len(own)}", f"{language:.2f}", f"{pull:.2f}", beyond]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser("read", help="measure checkpoints of corridors")
    reading.add_argument("corridors", nargs="+", type=Path, help="their folders")
    reading.add_argument("--pictures", type=Path, help="folder to keep the pictures in")
    commands.add_parser("table", help="say what was measured")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = arguments(argv)
    if options.command == "table":
        print(table())
        return
    use_threads(1)
    for folder in options.corridors:
        for cell in chosen(folder):
            measure(folder, cell, rows(), options.pictures)


if __name__ == "__main__":
    run_command(main)
