"""The verdict against labels that were given to anonymous grids on shuffled sheets.

Labels and the measures of their cells lie in training/calibration/labels;
`python -m training.calibration.blind_labels` makes both.
"""

import csv

import pytest
from helpers.paths import ROOT

from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL, ZONES, Verdict, judge

FOLDER = ROOT / "training" / "calibration" / "labels"
BUNDLED = ("coffee", "galaxies", "nautilus")
FRESH = ("astronaut", "cat", "motorcycle", "retina", "rocket", "tissue")


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(subject: str) -> list[tuple[list[str], Verdict]]:
    """Labels, the first one first, and the verdict, of every cell."""
    measured = {row["code"]: row for row in rows(f"{subject}_cells.csv")}
    found = []
    for row in rows(f"{subject}_labels.csv"):
        cell = measured[row["code"]]
        names = [
            *DECIDING,
            *(name for name in WITH_MODEL if cell.get(name)),
        ]  # measured later than some cells
        intervals = {name: Interval(*map(float, cell[name].split(";"))) for name in names}
        found.append((row["label"].split("/"), judge(intervals)))
    assert len(found) == len(measured)
    return found


@pytest.mark.parametrize("subjects", [BUNDLED, FRESH], ids=["bundled", "fresh"])
def test_the_verdict_is_what_a_person_said(subjects: tuple[str, ...]) -> None:
    everything = [cell for subject in subjects for cell in cells(subject)]
    agree = [verdict.zone == labels[0] for labels, verdict in everything]
    assert sum(agree) >= 0.9 * len(agree)
    either = [verdict.zone in labels for labels, verdict in everything]
    assert sum(either) >= 0.95 * len(either)
    off = [abs(ZONES.index(verdict.zone) - ZONES.index(labels[0])) for labels, verdict in everything]
    assert max(off) <= 1


@pytest.mark.parametrize("subject", [*BUNDLED, *FRESH])
def test_the_base_is_under_drifted_and_the_end_is_cooked(subject: str) -> None:
    verdicts = [verdict for _, verdict in cells(subject)]
    along = [(verdict.position, verdict.zone) for verdict in verdicts if verdict.position is not None]
    assert min(along) == (0, "under-drifted")
    assert max(along)[1] == "cooked"
