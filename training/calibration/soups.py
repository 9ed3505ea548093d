"""Whether the mean of several fits' weights dreams longer than the fits.

    python -m training.calibration.fresh_subjects fresh
    lightning-drift corridor --lr 1e-4 --steps 200,400,600,800,1000,1200,1400,1600 --seeds 0-2 --name seeds
    lightning-drift corridor soup tb_logs/coffee/seeds
    python -m training.calibration.soups gather tb_logs/*/seeds       # labels/soups.csv
    python -m training.calibration.soups table

``gather`` takes verdicts and measures from finished corridors of several seeds and their soup. ``table`` says
for each photo set up to which step each fit and the soup dream, how the soup's measures differ from the mean
of its fits' at the same step, and how from theirs at the same language, with 90 % intervals over the sets.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_drift.corridor.read import read
from training.calibration.beside_base import interval
from training.calibration.labelled_cells import LABELS
from training.command_line import command_parser, run_command

TABLE = LABELS / "soups.csv"
MEASURES = ("language", "pull", "drift_prompt", "photo_loss")
COLUMNS = ("set", "run", "step", "zone", "position", *MEASURES)
EVEN = ("pull", "photo_loss")
"""Measures that are also compared at the same language."""
SOUP = "soup"


def gather(corridors: Sequence[Path]) -> None:
    """Write the table of corridors."""
    lines: list[list[object]] = []
    for folder in corridors:
        table = read(folder, own=True)
        for run in table.runs:
            for step in table.steps:
                file = run.folder / "drift" / f"step={step:05d}.json"
                told = json.loads(file.read_text(encoding="utf-8"))
                values = [round(told["measures"][name]["value"], 4) for name in MEASURES]
                name = SOUP if run.soup else f"seed {run.seed}"
                lines.append([folder.parent.name, name, step, told["zone"], told["position"], *values])
    with open(TABLE, "w", encoding="utf-8", newline="") as target:
        csv.writer(target, lineterminator="\n").writerows([COLUMNS, *lines])


def dreams_until(rows: Sequence[dict[str, str]]) -> int:
    """The last step of a run up to which every verdict is dreaming or before it; 0 if the first is not."""
    last = 0
    for row in rows:
        if row["zone"] not in ("under-drifted", "dreaming"):
            break
        last = int(row["step"])
    return last


def differences(rows: Sequence[dict[str, str]], measure: str) -> list[float]:
    """For each step the soup's measure less the mean of its fits'."""
    found = []
    for step in dict.fromkeys(row["step"] for row in rows):
        here = [row for row in rows if row["step"] == step]
        own = [float(row[measure]) for row in here if row["run"] == SOUP]
        fits = [float(row[measure]) for row in here if row["run"] != SOUP]
        found += [value - float(np.mean(fits)) for value in own]
    return found


def beyond(rows: Sequence[dict[str, str]], measure: str) -> list[float]:
    """For each step the soup's measure less that of its fits at the soup's language.

    What the fits have at a language is taken from the mean over seeds at each step, linear between steps.
    """
    steps = list(dict.fromkeys(row["step"] for row in rows))

    def mean(step: str, name: str) -> float:
        return float(
            np.mean([float(row[name]) for row in rows if (row["step"], row["run"] != SOUP) == (step, True)])
        )

    line = sorted(
        [(1.0, float(measure == "photo_loss")), *((mean(s, "language"), mean(s, measure)) for s in steps)]
    )
    languages, values = zip(*line, strict=True)
    soups = [row for row in rows if row["run"] == SOUP]
    return [
        float(row[measure]) - float(np.interp(float(row["language"]), languages, values)) for row in soups
    ]


def table() -> str:
    """What was gathered, in Markdown."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sets = list(dict.fromkeys(row["set"] for row in rows))
    runs = sorted(dict.fromkeys(row["run"] for row in rows))
    heads = [*(f"soup's {name}" for name in MEASURES), *(f"{name} at that language" for name in EVEN)]
    lines = [f"| photos | {' | '.join([*runs, *heads])} |", "| --- " * (1 + len(runs) + len(heads)) + "|"]
    means: dict[str, list[float]] = {}
    for name in sets:
        own = [row for row in rows if row["set"] == name]
        ends = [f"{dreams_until([row for row in own if row['run'] == run])}" for run in runs]
        moved = {measure: float(np.mean(differences(own, measure))) for measure in MEASURES}
        moved |= {f"{measure} at": float(np.mean(beyond(own, measure))) for measure in EVEN}
        for measure, value in moved.items():
            means.setdefault(measure, []).append(value)
        lines.append(f"| {name} | {' | '.join([*ends, *(f'{value:+.3f}' for value in moved.values())])} |")
    lines.append(
        f"| all | {'| ' * len(runs)}{' | '.join(interval(values, 3) for values in means.values())} |"
    )
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    gathering = commands.add_parser("gather", help="take verdicts and measures from corridors")
    gathering.add_argument("corridors", nargs="+", type=Path, help="their folders")
    commands.add_parser("table", help="say what was gathered")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = arguments(argv)
    if options.command == "gather":
        gather(options.corridors)
    else:
        print(table())


if __name__ == "__main__":
    run_command(main)
