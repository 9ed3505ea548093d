"""The labelled cells again, at the smallest size: one fit of one step, pictures of one step."""

import csv
from pathlib import Path

import pytest

from lightning_drift.drift.probes import Probes, find_probes
from lightning_drift.drift.verdict import DECIDING, Interval
from training.calibration import fewer_pictures, labelled_cells
from training.calibration.fewer_pictures import Cell, Choice, agreement


def few_probes() -> Probes:
    words = ["a desert at dusk", "a golden dome in a city"]
    groups = {"dream": (["monumental"], list(range(8))), "language": (words, list(range(4)))}
    return find_probes(groups, "dream", "language", "")


def test_a_cell_is_fitted_drawn_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_cells, "labelled", lambda name: [("4e-5", 1)])
    monkeypatch.setattr(labelled_cells, "probes", few_probes)
    monkeypatch.setattr(fewer_pictures, "probes", few_probes)
    monkeypatch.setattr(fewer_pictures, "TODAY", Choice(1, 8, 1, 4))
    few = [Choice(1, 8, 1, 3), Choice(0, 0, 1, 2), Choice(9, 2, 1, 2), Choice(1, 8, 2, 4, "ddim_trailing")]
    monkeypatch.setattr(fewer_pictures, "choices", lambda: few)
    labelled = dict.fromkeys(DECIDING, Interval(0.5, 0.25, 0.75))
    cells = [
        Cell("c1", "coffee", "", 0, ["under-drifted"], labelled),
        Cell("c2", "coffee", "4e-5", 1, ["cooked", "broken"], labelled),
    ]
    monkeypatch.setattr(fewer_pictures, "labelled_cells", lambda name: cells if name == "coffee" else [])
    where = [str(tmp_path / "cells"), "--sets", "coffee"]
    labelled_cells.main(["fit", *where])
    labelled_cells.main(["draw", *where, "--dream", "1", "--language", "1", "ddim_trailing:2"])
    fewer_pictures.main(["table", str(tmp_path / "cells"), "--to", str(tmp_path)])
    fewer_pictures.main(["choose", str(tmp_path / "cells"), "1", "2", "1", "3", "--to", str(tmp_path)])

    with (tmp_path / "fewer_pictures.csv").open(newline="") as file:
        today, all_of_them, two_seeds, solved = csv.DictReader(file)  # nothing was drawn with 9 steps
    assert [today[name] for name in ("sets", "cells", "cost", "others_first")] == [
        "bundled",
        "2",
        "1.000",
        "",
    ]
    assert today["width_tilt"] == "1.00"
    assert two_seeds["cost"] == f"{16 / 40:.3f}"
    assert (today["language_solver"], solved["language_solver"]) == ("ddim", "ddim_trailing")
    assert {row["first"] for row in (all_of_them, two_seeds)} <= {"0", "1", "2"}
    with (tmp_path / "fewer_pictures_cells.csv").open(newline="") as file:
        base, fitted = csv.DictReader(file)
    assert (base["language"], base["drift_prompt"], base["photo_loss"]) == ("1;1;1", "0;0;0", "1;1;1")
    value, low, high = map(float, fitted["photo_loss"].split(";"))
    assert low <= value <= high < 1.1


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_cells, "labelled", lambda name: [("4e-5", 1)])
    labelled_cells.keep(tmp_path / "weights" / "coffee_4e-5_00001.safetensors", {})
    monkeypatch.setattr(labelled_cells, "Trainer", None)
    labelled_cells.main(["fit", str(tmp_path), "--sets", "coffee"])


def test_agreement_counts_first_either_far_and_same() -> None:
    labels = [["dreaming"], ["dreaming", "forgetting"], ["under-drifted"], ["cooked"]]
    base = dict.fromkeys(DECIDING, Interval(0, 0, 0))
    base |= dict.fromkeys(("language", "spread"), Interval(1, 1, 1))  # under-drifted
    cells = [Cell("", "", "", 0, label, base) for label in labels]
    assert agreement(cells, ["dreaming", "forgetting", "forgetting", "broken"]) == (1, 2, 1, 0)
    assert agreement(cells, ["dreaming", "dreaming", "under-drifted", "cooked"]) == (4, 4, 0, 1)


def test_a_choice_counts_its_sampling_steps() -> None:
    assert fewer_pictures.TODAY.sampling_steps == 40 * 50
    assert Choice(50, 4, 10, 2).sampling_steps == 200 + 160
    assert Choice(50, 4, 10, 2) in fewer_pictures.choices()
    assert Choice(0, 0, 10, 2) in fewer_pictures.choices()  # no picture, no steps
