"""The benchmarks and the sheet of prints at their smallest size."""

import json
import sys
from pathlib import Path

import yaml
from helpers.scripts import script
from PIL import Image

from lightning_drift.assets import DEFAULTS


def test_the_benchmark_of_a_step_times_all_contenders(monkeypatch, capsys):
    benchmark = script("scripts/benchmark_fit.py")
    results = {}
    for name in benchmark.TFLOP:
        monkeypatch.setattr(sys, "argv", ["benchmark_fit.py", "--steps", "3", "--contender", name])
        benchmark.main()
        results[name] = [json.loads(capsys.readouterr().out.strip().splitlines()[-1])]
        assert results[name][0]["seconds"] > 0
    benchmark.report(results, "pocket", False)
    text = capsys.readouterr().out
    assert all(f"{name}:" in text for name in ("reference", "bare", "ours", "ours / bare"))


def test_the_benchmark_of_the_drift_times_all_modes(tmp_path: Path, monkeypatch, capsys):
    config = yaml.safe_load((DEFAULTS / "fit.yaml").read_text())
    config["seed_grid"]["num_inference_steps"] = 1
    config["seed_grid"]["groups"]["language"]["prompts"] = ["a desert at dusk", "a golden dome in a city"]
    for group in config["seed_grid"]["groups"].values():
        group["seeds"] = "0-1"
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    command = ["benchmark_drift.py", "--config", str(tmp_path / "fit.yaml"), "--steps", "2"]
    monkeypatch.setattr(sys, "argv", command)
    script("scripts/benchmark_drift.py").main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    modes = [row for row in rows if row and row[0] in ("probe", "clip", "none")]
    assert [row[0] for row in modes] == ["probe", "clip", "none"]
    assert all(row[-1].endswith("%") for row in modes)


def test_prints_lie_beside_their_dreams(tmp_path: Path, monkeypatch, capsys):
    for folder, side, colour in (("dreams", 8, "red"), ("prints", 32, "blue")):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "contact_sheet.png", f"only_{folder}.png"):
            Image.new("RGB", (side, side), colour).save(tmp_path / folder / name)
    comparison = script("scripts/compare_prints.py")
    paths = ["--dreams", str(tmp_path / "dreams"), "--out", str(tmp_path / "sheets" / "sheet.png")]
    monkeypatch.setattr(sys, "argv", ["compare_prints.py", "--prints", str(tmp_path / "prints"), *paths])
    assert comparison.main() == 0
    with Image.open(tmp_path / "sheets" / "sheet.png") as sheet:
        counts = {colour: count for count, colour in sheet.getcolors(sheet.width * sheet.height)}
    assert counts[255, 0, 0] == 2 * counts[0, 0, 255] > 0  # one dream, enlarged in two ways, and its print
    monkeypatch.setattr(sys, "argv", ["compare_prints.py", "--prints", str(tmp_path / "sheets"), *paths])
    assert comparison.main() == 1
    assert "holds no prints" in capsys.readouterr().err
