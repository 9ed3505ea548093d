"""The calibration's fits and measures at the smallest size, on the pocket."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from helpers.corridor_runs import write_run

from lightning_drift.assets import DEFAULTS
from lightning_drift.common.errors import UserError
from training.calibration import fresh_subjects, pocket_corridor, random_changes


def test_a_corridor_is_fitted_and_lies_on_the_sheet(tmp_path: Path) -> None:
    config = yaml.safe_load((DEFAULTS / "fit.yaml").read_text())
    config["seed_grid"]["num_inference_steps"] = 1
    config["seed_grid"]["groups"]["language"]["prompts"] = ["a desert at dusk", "a golden dome in a city"]
    for group in config["seed_grid"]["groups"].values():
        group |= {"seeds": "0-1", "num_inference_steps": 1}
    config["clip_drift"]["language_probe"] = False
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    few = ["--sets", "coffee", "--rates", "4e-5", "--steps", "1", "--config", str(tmp_path / "fit.yaml")]
    pocket_corridor.main([*few, "--root", str(tmp_path / "runs")])
    corridor = tmp_path / "runs" / "coffee" / "corridor"
    assert (corridor / "corridor.html").is_file()
    assert (corridor / "lr4e-5" / "checkpoints" / "step=00001.ckpt").is_file()


def test_the_sheet_has_a_row_for_each_point_and_names_what_is_missing(tmp_path: Path) -> None:
    for rate, step in ((4e-5, 1200), (8e-5, 1600), (3.2e-4, 1200)):
        write_run(tmp_path / "coffee" / "corridor" / f"lr{rate:g}", rate, (step,))
    small = pocket_corridor.figure(tmp_path, ["coffee"], seed=3)
    assert small.width > 2 * 16
    assert small.height > 4 * 16  # the base and three points
    with pytest.raises(UserError, match="no picture of 'monumental, dramatic', seed 2, at step 0"):
        pocket_corridor.figure(tmp_path, ["coffee"], seed=2)


def test_a_large_random_change_is_no_dream(capsys: pytest.CaptureFixture[str]) -> None:
    random_changes.main(["--photos", "coffee", "--shares", "0.4", "--seeds", "1", "--steps", "2"])
    line = capsys.readouterr().out.strip()
    match = re.fullmatch(
        r"0\.4: by the pictures alone 1 ([\w-]+); with the loss on the photos 1 (\w+) \(loss (.*) to \3\)",
        line,
    )
    assert match is not None, line
    assert match[2] == "broken"
    assert float(match[3]) > 1


def test_a_missing_scikit_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)  # as where it is not installed
    with pytest.raises(UserError, match="pip install scikit-image"):
        fresh_subjects.main([str(tmp_path / "fresh")])
    assert not (tmp_path / "fresh").exists()


def test_fresh_subjects_are_eight_squares_of_six_pictures(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    fresh_subjects.main([str(tmp_path)])
    assert len(list(tmp_path.glob("*/*.jpg"))) == 48
