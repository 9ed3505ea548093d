"""Which measures tell dreaming from forgetting: the tables of `training.calibration.held_out`, judged.

    python -m training.calibration.told_apart

Two tables are read from training/calibration/labels. ``held_out.csv`` has fits with two held-out photos, each
checkpoint with the verdict of its pictures; ``denoiser.csv`` has labelled cells, each with the zone that was
seen before any verdict was read. Of each measure is printed how well it tells a dreaming checkpoint from one
beyond (forgetting or cooked; the others are left out):

* the area under its ROC curve (the chance that one beyond has more of it than one that dreams), with a 90 %
  bootstrap interval over photo sets,
* how many checkpoints the best threshold of the other sets tells right, with a 90 % Wilson interval. The
  interval takes checkpoints as independent, which those of one fit are not, so it is too narrow.

Then, for each fit with held-out photos, the step at which the held-out loss turns, and the first checkpoint
whose pictures are forgetting; and each fit's language, step by step: whether the corridor is monotone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lightning_drift.common.rng import generator
from training.calibration.labelled_cells import LABELS
from training.command_line import command_parser, run_command, use_threads

BEYOND = ("forgetting", "cooked")
NOT_MEASURED = ("set", "rate", "step", "zone", "label", "position")
DRAWS = 1000
_Z = 1.645  # of a 90 % interval

Row = Mapping[str, Any]


def rows_of(file: Path, truth: str) -> list[dict[str, Any]]:
    """The rows of a table that dream or are beyond, with numbers as numbers and ``beyond`` added.

    Args:
        file: The table.
        truth: Its column that holds the zone; of several opinions the first counts.
    """
    with file.open(newline="", encoding="utf-8") as opened:
        rows: list[dict[str, Any]] = list(csv.DictReader(opened))
    for row in rows:
        row |= {name: float(row[name]) for name in row if name not in NOT_MEASURED and row[name]}
        row["step"], row["zone"] = int(row["step"]), row[truth].split("/")[0]
        row["beyond"] = row["zone"] in BEYOND
    return [row for row in rows if row["beyond"] or row["zone"] == "dreaming"]


def area(values: Sequence[float], beyond: Sequence[bool]) -> float:
    """The area under the ROC curve: the share of pairs in which the one beyond has more, ties half.

    >>> area([1, 2, 3, 4], [False, True, False, True])
    0.75
    """
    inside = [value for value, out in zip(values, beyond, strict=True) if not out]
    outside = [value for value, out in zip(values, beyond, strict=True) if out]
    if not inside or not outside:
        return math.nan
    wins = sum((one > other) + 0.5 * (one == other) for one in outside for other in inside)
    return wins / (len(inside) * len(outside))


def interval(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """The 90 % interval of `area` over draws of photo sets with replacement."""
    sets = sorted({row["set"] for row in rows})
    source, found = generator(0, "told apart", name), []
    for _ in range(DRAWS):
        drawn = [sets[i] for i in torch.randint(len(sets), (len(sets),), generator=source).tolist()]
        part = [row for each in drawn for row in rows if row["set"] == each]
        found.append(area([row[name] for row in part], [row["beyond"] for row in part]))
    known = torch.tensor([each for each in found if not math.isnan(each)], dtype=torch.float64)
    low, high = torch.quantile(known, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return low, high


def threshold(rows: Sequence[Row], name: str) -> tuple[float, int]:
    """The threshold that tells most rows right, and 1 where those beyond lie above it, else -1.

    >>> rows = [{"x": x, "beyond": x > 2} for x in (1, 2, 3, 4)]
    >>> threshold(rows, "x")
    (2.5, 1)
    """
    values = sorted({row[name] for row in rows})
    middles = [(one + other) / 2 for one, other in pairwise(values)] or values
    choices = [(middle, sign) for sign in (1, -1) for middle in middles]
    return max(choices, key=lambda choice: right(rows, name, *choice))


def right(rows: Sequence[Row], name: str, limit: float, sign: int) -> int:
    """How many rows a threshold tells right."""
    return sum((sign * (row[name] - limit) > 0) == row["beyond"] for row in rows)


def left_out(rows: Sequence[Row], name: str) -> int:
    """How many rows are told right by the best threshold of the other photo sets."""
    count = 0
    for each in sorted({row["set"] for row in rows}):
        others = [row for row in rows if row["set"] != each]
        count += right([row for row in rows if row["set"] == each], name, *threshold(others, name))
    return count


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 90 % interval of a share (E. Wilson, 1927).

    >>> [round(bound, 3) for bound in wilson(9, 10)]
    [0.652, 0.977]
    """
    share, z = count / of, _Z
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return middle - half, middle + half


def judged(rows: Sequence[Row]) -> list[str]:
    """A line for each measure, the best first."""
    count, out = len(rows), sum(row["beyond"] for row in rows)
    lines = [
        f"{count} checkpoints of {len({row['set'] for row in rows})} sets, {out} of them beyond dreaming"
    ]
    lines.append(f"always the commoner zone: {max(out, count - out)}")
    dosed = [{**row, "dose": float(row["rate"]) * row["step"] ** 0.75} for row in rows]
    found = []
    for name in ("dose", *(name for name in rows[0] if name not in (*NOT_MEASURED, "beyond"))):
        known = [row for row in dosed if isinstance(row[name], float)]
        if not known:
            continue
        value = area([row[name] for row in known], [row["beyond"] for row in known])
        low, high = interval(known, name)
        if value < 0.5:  # less of it tells that one is beyond
            value, low, high = 1 - value, 1 - high, 1 - low
        told, of = left_out(known, name), len(known)
        bounds = " to ".join(f"{bound:.2f}" for bound in wilson(told, of))
        line = f"{name:20} {value:.3f} ({low:.3f} to {high:.3f})  {told:3d} of {of} ({bounds})"
        found.append((-told / of, -value, line))
    head = f"{'measure':20} area (over sets)          told right"
    return [*lines, head, *(line for *_, line in sorted(found))]


def turns(rows: Sequence[Row]) -> list[str]:
    """Where each fit's held-out loss turns, and where its pictures first forget."""
    lines = []
    for name, rate in dict.fromkeys((row["set"], row["rate"]) for row in rows):
        own = [row for row in rows if (row["set"], row["rate"]) == (name, rate)]
        least = own[-1]["step"] - int(own[-1]["past_turn"])
        beyond = next((str(row["step"]) for row in own if row["beyond"]), "none")
        lines.append(f"{name:10} {rate}  turn {least:5d}  first beyond {beyond}")
    return lines


def way(rows: Sequence[Row], name: str = "language") -> list[str]:
    """Each fit's values of a measure in the order of its steps, and the largest return."""
    lines = []
    for each, rate in dict.fromkeys((row["set"], row["rate"]) for row in rows):
        own = [row for row in rows if (row["set"], row["rate"]) == (each, rate)]
        values = [row[name] for row in own]
        back = max((later - min(values[: i + 1]) for i, later in enumerate(values)), default=0.0)
        zones = [row["zone"][0] for row in own]
        text = " ".join(f"{zone}{value:.2f}" for zone, value in zip(zones, values, strict=True))
        lines.append(f"{each:10} {rate}  returns by {back:.2f}: {text}")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--tables", type=Path, default=LABELS, help="folder of held_out.csv and denoiser.csv")
    options = parser.parse_args(argv)
    use_threads(1)
    held_out = rows_of(options.tables / "held_out.csv", "zone")
    denoiser = rows_of(options.tables / "denoiser.csv", "label")
    for title, lines in (
        ("Fits with held-out photos, by the verdict of their pictures:", judged(held_out)),
        ("Labelled cells, by their labels:", judged(denoiser)),
        ("Where the held-out loss turns:", turns(held_out)),
        ("Language by steps (d dreaming, f forgetting, c cooked):", way(held_out)),
    ):
        print("\n".join(["", title, *lines]))


if __name__ == "__main__":
    run_command(main)
