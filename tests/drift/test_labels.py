"""The verdict against labels that were given to anonymous grids on shuffled sheets.

Labels and the measures of their cells lie in training/calibration/labels;
`python -m training.calibration.blind_labels` makes both, `python -m training.calibration.fewer_pictures` the
measures of the same cells by fewer pictures.
"""

import csv

import pytest
from helpers.paths import ROOT

from lightning_drift.drift.calibration import Labelled, best_thresholds
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL, ZONES, Thresholds, Verdict, judge

FOLDER = ROOT / "training" / "calibration" / "labels"
BUNDLED = ("coffee", "galaxies", "nautilus")
FRESH = ("astronaut", "cat", "motorcycle", "retina", "rocket", "tissue")

CHOSEN = {"dream_steps": 50, "dream_seeds": 4, "language_steps": 10, "language_seeds": 4}
"""Sampling steps and seeds of the two groups that fewer_pictures_cells.csv was measured with."""


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(subject: str) -> list[tuple[list[str], Verdict]]:
    """Labels, the first one first, and the verdict, of every cell."""
    measured = rows(f"{subject}_cells.csv")
    found = judged(subject, measured)
    assert len(found) == len(measured) == len(rows(f"{subject}_labels.csv"))
    return found


def opinions(subject: str) -> dict[str, list[str]]:
    return {row["code"]: row["label"].split("/") for row in rows(f"{subject}_labels.csv")}


def intervals(cell: dict[str, str]) -> dict[str, Interval]:
    taken = [name for name in WITH_MODEL if cell.get(name)]  # measured later than some cells
    return {name: Interval(*map(float, cell[name].split(";"))) for name in (*DECIDING, *taken)}


def judged(subject: str, measured: list[dict[str, str]]) -> list[tuple[list[str], Verdict]]:
    """Labels and verdict of cells with their measures."""
    labels = opinions(subject)
    return [(labels[cell["code"]], judge(intervals(cell))) for cell in measured]


def test_no_thresholds_near_the_shipped_agree_with_more_labels() -> None:
    """The search of ``corridor label``, given all labels of the pocket, moves nothing."""
    said = []
    for subject in (*BUNDLED, *FRESH):
        labels = opinions(subject)
        for cell in rows(f"{subject}_cells.csv"):
            values = {name: interval.value for name, interval in intervals(cell).items()}
            said.append(Labelled(values, labels[cell["code"]][0]))
    assert len(said) == 156
    assert best_thresholds(said, Thresholds()) == Thresholds()


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


def test_fewer_pictures_say_what_all_of_them_said() -> None:
    measured = rows("fewer_pictures_cells.csv")
    found, before = [], []
    for subject in FRESH:  # the bundled sets have not been drawn again
        own = [row for row in measured if row["subject"] == subject]
        codes = {row["code"] for row in own}
        found += judged(subject, own)
        labelled = {row["code"]: row for row in rows(f"{subject}_cells.csv") if row["code"] in codes}
        before += judged(subject, [labelled[row["code"]] for row in own])
    assert len(found) == len(measured) >= 60
    first = [sum(verdict.zone == labels[0] for labels, verdict in some) for some in (found, before)]
    assert first[0] >= first[1]
    off = [abs(ZONES.index(verdict.zone) - ZONES.index(labels[0])) for labels, verdict in found]
    assert max(off) <= 1
    same = sum(now.zone == then.zone for (_, now), (_, then) in zip(found, before, strict=True))
    assert same >= 0.95 * len(found)
    # What docs/corridor.md tells of it.
    table = [row for row in rows("fewer_pictures.csv") if row["sets"] == "fresh"]
    row = next(row for row in table if {name: int(row[name]) for name in CHOSEN} == CHOSEN)
    told = {"cells": len(found), "first": first[0], "far": 0, "same": same}
    assert {name: int(row[name]) for name in told} == told
