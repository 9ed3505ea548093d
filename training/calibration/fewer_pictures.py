"""How few pictures the verdict needs: the labelled cells judged with fewer seeds and fewer sampling steps.

    python -m training.calibration.fewer_pictures table cells          # of `labelled_cells`; some minutes
    python -m training.calibration.fewer_pictures choose cells 50 4 10 2

``table`` judges the labelled cells by every combination of sampling steps and seeds of the two groups, the
dream prompt and the language prompts, and writes to labels/fewer_pictures.csv how often the labels agree,
and on how many cells the verdict is the ``same`` as by all pictures.
Seeds are the first ones, as a configuration names them. Which seeds these are is chance, so the combination
is judged three times more, with the next seeds in their place (``others``). ``width`` is the median width of
a measure's interval, relative to that of all pictures, and ``inside`` the share of fitted cells whose value
by all pictures lies in it. ``choose`` writes the measures of every cell for one combination (steps and seeds
of the dream, then of the language) to labels/fewer_pictures_cells.csv, to which the tests hold the verdict.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.intervals import DRAWS, Interval
from lightning_drift.drift.metric import DriftMetric, Role
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL, ZONES, judge
from training.calibration import pocket_corridor
from training.calibration.labelled_cells import (
    FRESH,
    LABELS,
    SEEDS,
    WORDS,
    Cell,
    Measures,
    Way,
    cell_name,
    labelled_cells,
    probes,
)
from training.calibration.solvers import SOLVERS
from training.command_line import command_parser, run_command, use_threads

WIDTHS = ("language", "drift_prompt", "tilt", "spread", "pull", "aim", "likeness")
"""Measures whose intervals are compared; the interval of ``copy`` is mostly a point."""


class Choice(NamedTuple):
    """How a milestone's measured pictures are made; without dream seeds the language prompts alone are.

    The dream is always drawn by DDIM.
    """

    dream_steps: int
    dream_seeds: int
    language_steps: int
    language_seeds: int
    language_solver: str = "ddim"

    @property
    def parts(self) -> dict[str, tuple[Role, int]]:
        """The group and the number of its seeds, by the name of the pictures' files."""
        parts: dict[str, tuple[Role, int]] = {}
        way = Way(self.language_steps, self.language_solver)
        parts[f"language_{way}"] = "language", self.language_seeds
        if self.dream_seeds:
            parts[f"dream_{self.dream_steps}"] = "dream", self.dream_seeds
        return parts

    @property
    def sampling_steps(self) -> int:
        """Guided sampling steps of a milestone, of one picture each: one dream prompt, eight of language."""
        return self.dream_steps * self.dream_seeds + 8 * self.language_steps * self.language_seeds


TODAY = Choice(50, 8, 50, 4)
"""What the labelled cells were measured with."""


def choices() -> list[Choice]:
    """What is judged beside `TODAY`.

    The dream has its own 50 steps or those of the language prompts; other samplers draw the language prompts
    with the fewest steps only.
    """
    found = {
        Choice(dream_steps if dream_seeds else 0, dream_seeds, steps, seeds)
        for steps in (50, 20, 10, 8, 6)
        for seeds in (4, 3, 2)
        for dream_seeds in (8, 4, 2, 0)
        for dream_steps in (50, steps)
    }
    found |= {
        Choice(50, dream_seeds, steps, 4, solver)
        for solver in SOLVERS
        for steps in (8, 6, 5, 4)
        for dream_seeds in (4, 2)
    }
    return sorted(found - {TODAY}, key=lambda c: (c.language_solver == "ddim", c), reverse=True)


class Measured:
    """Measures of labelled cells by choices, from the features of their pictures.

    Args:
        folder: What `training.calibration.labelled_cells` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.probes = folder / "features", probes()
        self.texts = load_file(self.folder / "texts.safetensors")["texts"]
        self._kept: dict[str, Features] = {}

    def _features(self, name: str) -> Features:
        if name not in self._kept:
            self._kept[name] = Features.from_tensors(load_file(self.folder / f"{name}.safetensors"))
        return self._kept[name]

    def has(self, cell: Cell, choice: Choice | None = None) -> bool:
        """Whether the cell's pictures have been drawn for a choice; None: at least for some."""
        files = [f"{self._name(cell)}_{part}" for part in (choice.parts if choice else ())]
        files += [f"{self._name(cell)}_loss"] if cell.rate else []
        return all((self.folder / f"{file}.safetensors").exists() for file in files)

    def cells(self, names: Iterable[str], choice: Choice | None = None) -> list[Cell]:
        """The cells of photo sets that have been drawn; the base with any of its set."""
        found = [[cell for cell in labelled_cells(name) if self.has(cell, choice)] for name in names]
        return [cell for cells in found if any(cell.rate for cell in cells) for cell in cells]

    def labelled(self, cell: Cell) -> Measures:
        """What the cell measured when it was labelled, and its loss on the photos."""
        return dict(cell.measures) | {WITH_MODEL[0]: self._loss(cell)}

    def measures(self, cell: Cell, choice: Choice, shift: int = 0, draws: int = DRAWS) -> Measures:
        """All measures of a cell.

        Args:
            cell: The cell.
            choice: Which of its pictures are looked at.
            shift: The first seed; seeds go round among those that were drawn.
            draws: Bootstrap draws; 0 for intervals without width.
        """
        keys, rows = [], {}
        for part, (role, seeds) in choice.parts.items():
            drawn = [key for key in self.probes.keys if self.probes.roles[key[0]] == role]
            looked_at = {(shift + number) % SEEDS[role] for number in range(seeds)}
            rows[part] = [row for row, (_, seed) in enumerate(drawn) if seed in looked_at]
            keys += [drawn[row] for row in rows[part]]
        roles = {prompt: self.probes.roles[prompt] for prompt, _ in keys}
        texts = self.texts[[list(self.probes.roles).index(prompt) for prompt in roles]]

        def features(name: str) -> Features:
            parts = [self._features(f"{name}_{part}")[index].tensors() for part, index in rows.items()]
            return Features.from_tensors({key: torch.cat([p[key] for p in parts]) for key in parts[0]})

        photos = self._features(f"{cell.subject}_photos")
        metric = DriftMetric(keys, roles, features("base"), photos, texts, draws=draws, sync=False)
        metric.update(range(len(keys)), features(self._name(cell)))
        return metric.compute() | {WITH_MODEL[0]: self._loss(cell)}

    def _loss(self, cell: Cell) -> Interval:
        if not cell.rate:
            return Interval(1.0, 1.0, 1.0)
        values = load_file(self.folder / f"{self._name(cell)}_loss.safetensors")["photo_loss"]
        return Interval(*values.tolist())

    @staticmethod
    def _name(cell: Cell) -> str:
        return cell_name(cell.subject, cell.rate, cell.step)


# -- what the labels say --------------------------------------------------------------------------------


def agreement(cells: Sequence[Cell], zones: Sequence[str]) -> tuple[int, int, int, int]:
    """How many zones are the first opinion, one of both, two zones off or more, and those by all pictures."""
    pairs = list(zip(cells, zones, strict=True))
    first = sum(zone == cell.labels[0] for cell, zone in pairs)
    either = sum(zone in cell.labels for cell, zone in pairs)
    far = sum(abs(ZONES.index(zone) - ZONES.index(cell.labels[0])) > 1 for cell, zone in pairs)
    same = sum(zone == judge(cell.measures).zone for cell, zone in pairs)
    return first, either, far, same


def row_of(
    choice: Choice,
    group: str,
    cells: Sequence[Cell],
    readings: Sequence[Measures],
    others: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """A row of the table.

    Args:
        choice: The combination.
        group: What the cells are called.
        cells: The cells that are judged.
        readings: Their measures.
        others: Their zones by other seeds.
    """
    verdicts = [judge(reading) for reading in readings]
    first, either, far, same = agreement(cells, [verdict.zone for verdict in verdicts])
    by_others = [agreement(cells, zones) for zones in others]
    row = {
        **choice._asdict(),
        "cost": f"{choice.sampling_steps / TODAY.sampling_steps:.3f}",
        "sets": group,
        "cells": len(cells),
        "first": first,
        "either": either,
        "far": far,
        "same": same,
        "others_first": "/".join(str(counts[0]) for counts in by_others),
        "others_far": "/".join(str(counts[2]) for counts in by_others),
        "others_same": "/".join(str(counts[3]) for counts in by_others),
        "borderline": sum(verdict.borderline is not None for verdict in verdicts),
    }
    fitted = [(now, cell.measures) for cell, now in zip(cells, readings, strict=True) if cell.rate]
    for name in WIDTHS:
        pairs = [(now[name], before[name]) for now, before in fitted]
        width = median(now.high - now.low for now, _ in pairs)
        before_that = median(before.high - before.low for _, before in pairs)
        row[f"width_{name}"] = f"{width / before_that:.2f}"
        inside = sum(now.low <= before.value <= now.high for now, before in pairs)
        row[f"inside_{name}"] = f"{inside / len(pairs):.2f}"
    return row


def table(measured: Measured) -> list[dict[str, Any]]:
    """A row for each combination whose pictures have been drawn of every cell, and each group of sets."""
    rows = []
    for group, names in (("fresh", FRESH), ("bundled", pocket_corridor.SETS)):
        if not (cells := measured.cells(names)):
            continue
        whole = [cell for cell in cells if measured.has(cell, TODAY)]
        same = sum(as_written(measured.measures(cell, TODAY)) == as_written(cell.measures) for cell in whole)
        print(f"{group}: {same} of the {len(whole)} cells that were drawn whole measure as they did")
        rows.append(row_of(TODAY, group, cells, [measured.labelled(cell) for cell in cells], []))
        for choice in choices():
            if not all(measured.has(cell, choice) for cell in cells):
                continue
            readings = [measured.measures(cell, choice) for cell in cells]
            others = [
                [judge(measured.measures(cell, choice, shift, draws=0)).zone for cell in cells]
                for shift in (1, 2, 3)
            ]
            rows.append(row_of(choice, group, cells, readings, others))
            print(*list(rows[-1].values())[:15], flush=True)
    return rows


def as_written(measures: Measures, names: Sequence[str] = DECIDING) -> dict[str, str]:
    """Measures as the files of cells hold them."""
    found = [(name, measures[name]) for name in names]
    return {name: f"{each.value:.4g};{each.low:.4g};{each.high:.4g}" for name, each in found}


def measures_of(measured: Measured, choice: Choice) -> list[dict[str, Any]]:
    """The deciding measures of every cell by a combination, as in the labels' files."""
    rows = []
    for cell in measured.cells(WORDS, choice):
        named = {"code": cell.code, "subject": cell.subject, "rate": cell.rate, "step": cell.step}
        rows.append(named | as_written(measured.measures(cell, choice), (*DECIDING, *WITH_MODEL)))
    return rows


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows to a csv file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(path)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("table", help="judge every combination")
    two = commands.add_parser("choose", help="keep the measures of one")
    for command in (one, two):
        command.add_argument("folder", type=Path, help="what training.calibration.labelled_cells wrote")
        command.add_argument("--to", type=Path, default=LABELS, help="folder of the csv file")
    two.add_argument("choice", nargs=4, type=int, help="steps and seeds of the dream, then of the language")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    use_threads(1)
    measured = Measured(options.folder)
    if options.command == "table":
        write(options.to / "fewer_pictures.csv", table(measured))
    else:
        write(options.to / "fewer_pictures_cells.csv", measures_of(measured, Choice(*options.choice)))


if __name__ == "__main__":
    run_command(main)
