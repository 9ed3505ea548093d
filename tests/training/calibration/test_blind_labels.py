"""Sheets hide what their cells are, and labels are compared with the verdicts of the same cells."""

import csv
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.corridor_runs import write_reading, write_run
from PIL import Image

from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL
from training.calibration.blind_labels import main

BASE = dict.fromkeys(DECIDING, Interval(0.0, 0.0, 0.0)) | dict.fromkeys(
    ("language", "spread"), Interval(1.0, 1.0, 1.0)
)


@pytest.fixture
def corridor(tmp_path: Path) -> Path:
    """Two rates after two steps, four seeds of every prompt; the loss on the photos in one run only."""
    for rate in (2e-6, 4e-6):
        run = write_run(tmp_path / "corridor" / f"lr{rate:g}", rate, (8, 16))
        config = yaml.safe_load((run / "config.yaml").read_text())
        for group in config["seed_grid"]["groups"].values():
            group["seeds"] = "0-3"
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        for picture in run.glob("grids/*/*seed0000.png"):
            for seed in (1, 2):
                shutil.copy(picture, picture.with_name(picture.name.replace("0000.png", f"{seed:04d}.png")))
        Image.new("RGB", (64, 32)).save(run / "instance_images.png")
        for step in (0, 8, 16):
            measures = BASE | ({WITH_MODEL[0]: Interval(0.5, 0.4, 0.6)} if rate == 4e-6 else {})
            write_reading(run, step, measures)
    return tmp_path / "corridor"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_sheets_and_labels_name_codes_alone_and_are_compared(corridor, tmp_path, capsys):
    blind = tmp_path / "blind"
    main(["sheets", str(corridor), "--to", str(blind)])
    cells, labels = rows(blind / "cells.csv"), rows(blind / "labels.csv")
    assert sorted((row["rate"], row["step"]) for row in cells) == [
        ("", "0"), ("2e-6", "16"), ("2e-6", "8"), ("4e-6", "16"), ("4e-6", "8"),
    ]  # fmt: skip
    assert {row["photo_loss"] for row in cells if row["rate"] == "4e-6"} == {"0.5;0.4;0.6"}
    assert {row["photo_loss"] for row in cells if row["rate"] != "4e-6"} == {""}
    assert [row["code"] for row in labels] == [f"c{number:03d}" for number in range(1, 6)]
    assert {row["label"] for row in labels} == {""}
    assert {path.name for path in blind.glob("*.png")} == {"sheet_c001.png", "sheet_c005.png"}
    for row in labels:
        row["label"] = "under-drifted" if row["code"] != "c002" else "cooked"
    labels[0]["label"] = "dreaming/under-drifted"
    labels.pop()
    with (blind / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(labels[0]))
        writer.writeheader()
        writer.writerows(labels)
    capsys.readouterr()
    main(["compare", str(blind / "labels.csv"), "--cells", str(blind / "cells.csv")])
    assert "all: 2 agree, 1 border, 0 differ, 1 FAR" in capsys.readouterr().out


def test_labels_that_are_no_zones_and_grids_with_few_seeds_are_refused(corridor, tmp_path):
    blind = tmp_path / "blind"
    main(["sheets", str(corridor), "--to", str(blind)])
    (blind / "labels.csv").write_text("code,label,note\nc001,burnt,\n")
    with pytest.raises(UserError, match="burnt is no zone"):
        main(["compare", str(blind / "labels.csv"), "--cells", str(blind / "cells.csv")])
    few = write_run(tmp_path / "few" / "lr2e-6", 2e-6, (8,))
    Image.new("RGB", (64, 32)).save(few / "instance_images.png")
    with pytest.raises(UserError, match="has 2 seeds; sheets show 4"):
        main(["sheets", str(tmp_path / "few"), "--to", str(blind)])
