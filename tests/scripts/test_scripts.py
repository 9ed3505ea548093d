"""The benchmarks and the sheet of prints at their smallest size."""

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from helpers.paths import DATA
from helpers.scripts import script
from PIL import Image

from lightning_drift.assets import DEFAULTS, PHOTOS
from lightning_drift.cli import main
from lightning_drift.drift.measures.frozen_clip import FrozenClip
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.fused_update import FusedUpdate
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.stable_diffusion.loading import load_stable_diffusion


@pytest.mark.parametrize("options", [["--eight-bit"], ["--whole"]])
def test_the_benchmark_of_a_fit_runs_all_contenders(options: list[str], monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    benchmark = script("scripts/benchmark_fit.py")
    benchmark.main(["--steps", "3", "--rounds", "1", "--threads", "1", *options])
    text = capsys.readouterr().out
    assert ("AdamW8bit" in text) == ("--eight-bit" in options)
    names = [name for name in benchmark.CONTENDERS if not (options == ["--whole"] and name == "bare")]
    for name in names:
        seconds = float(re.search(rf"^ *{name}: +([\d.]+) (ms/step|s) ", text, re.MULTILINE)[1])
        assert seconds > 0
    ratio = re.search(r"reference / full: ([\d.]+) times the time", text)[1]
    assert float(ratio) > 0


def test_the_reference_loop_trains_and_writes_its_pipeline(tiny_sd: str, tmp_path: Path, monkeypatch, capsys):
    reference = script("scripts/reference_loop.py")
    words = [f"--pipeline={tiny_sd}", f"--photos={PHOTOS / 'coffee'}", "--side=64", "--steps=3"]
    monkeypatch.setattr(sys, "argv", ["reference_loop.py", *words, f"--out={tmp_path}"])
    reference.main()
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert min(told["seconds"], told["peak"]) > 0
    trained, base = (load_stable_diffusion(name) for name in (str(tmp_path), tiny_sd))
    for part in ("unet", "text_encoder"):
        moved = [
            (one - other).abs().max().item()
            for one, other in zip(
                getattr(trained, part).parameters(), getattr(base, part).parameters(), strict=True
            )
        ]
        # A step of Adam moves no weight by much more than the rate, 2e-6.
        assert 3e-6 < max(moved) < 7e-6


@pytest.fixture
def card():
    return script("scripts/benchmark_card.py")


@pytest.mark.filterwarnings("ignore")  # Lightning's own, which a fit from the command line quiets
def test_the_benchmark_of_a_card_runs_a_mode_on_each_card(card, tiny_sd: str, monkeypatch):
    monkeypatch.setattr(card, "ROUND", 1)
    told = card.run_mode("deferred", tiny_sd, [8.0], torch.device("cpu"))
    assert told["fits"] == {"8": True}
    assert told["seconds"] > 0
    lines = card.table({"deferred": told, "full": None}, [24.0, 8.0]).splitlines()
    assert lines[0].split() == ["photos", "step", "grid", "held", "ms/step", "24", "GB", "8", "GB"]
    assert lines[1].split()[0] == "deferred"
    assert lines[1].split()[-2:] == ["-", "fits"]
    # The plan is that of a GPU; to be held to what one takes: tests/gpu/test_memory_modes.py.
    assert 0 < min(told["forecast"]["photos"], told["forecast"]["grid"]) < told["forecast"]["step"] < 1
    assert lines[2].split() == ["forecast", *(f"{peak:.2f}" for peak in told["forecast"].values())]
    assert lines[3].split() == ["full", "failed"]


def test_the_benchmark_of_a_card_needs_one(card, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert card.main([]) == 2
    assert capsys.readouterr().err == "error: this measures a graphics card, and PyTorch finds none here\n"
    options = card.arguments(["--cards", "8", "24"])
    assert options.cards == [24, 8]
    assert options.modes == list(MEMORY_MODES)


def test_the_benchmark_of_a_card_compares_and_times_updates(card, monkeypatch):
    pytest.importorskip("triton", reason="the kernel runs in Triton's interpreter")

    def small(*_: str) -> Any:
        torch.manual_seed(0)
        return {"unet": torch.nn.Linear(64, 64), "text_encoder": torch.nn.Linear(8, 8)}

    cpu = torch.device("cpu")
    monkeypatch.setattr(card, "load_stable_diffusion", lambda name: SimpleNamespace(**small()))
    monkeypatch.setattr(card, "sd15_models", small)
    with pytest.raises(RuntimeError, match="not to be had here"):
        card.compare_updates(cpu)
    interpreted = partial(FusedUpdate, cuda=False)
    monkeypatch.setattr("lightning_drift.fit.split_optimizer.fused_update", interpreted)
    told = card.compare_updates(cpu, steps=4)
    # A CPU keeps the same states, and rounds weights in another order.
    assert told["states"] == 1
    assert 0.9 < told["weights"] <= 1
    assert told["distance"] < 1e-6
    names = [f"{what}, {how}" for how in ("one launch", "one by one") for what in ("norm", "update")]
    assert list(card.time_updates(cpu, rounds=1)) == names


def test_the_benchmark_of_the_drift_times_all_modes(tmp_path: Path, monkeypatch, capsys):
    config = yaml.safe_load((DEFAULTS / "fit.yaml").read_text())
    config["seed_grid"]["num_inference_steps"] = 1
    config["seed_grid"]["groups"]["language"]["prompts"] = ["a desert at dusk", "a golden dome in a city"]
    for group in config["seed_grid"]["groups"].values():
        group |= {"seeds": "0-1", "num_inference_steps": 1}
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


@pytest.mark.filterwarnings("ignore")  # Lightning's own, which a fit from the command line quiets
def test_the_shares_of_a_fit_add_up(tiny_sd: str, tmp_path: Path, monkeypatch, capsys):
    shares = script("scripts/benchmark_shares.py")
    monkeypatch.chdir(tmp_path)
    for _, owner, methods in shares.PARTS:  # which the script wraps for good
        for method in methods:
            monkeypatch.setattr(owner, method, getattr(owner, method))
    monkeypatch.setattr(DreamBooth, "training_step", DreamBooth.training_step)
    groups = "--seed_grid.groups={dream: {prompts: a, seeds: 0-1}, language: {prompts: [b, c], seeds: 0-1}}"
    words = [f"--model.pipeline={tiny_sd}", "--trainer.max_steps=2", "--seed_grid.steps=0,2", groups]
    words += ["--seed_grid.num_inference_steps=1", "--trainer.enable_progress_bar=false"]
    assert shares.main(*shares.arguments(["--extrapolate", "8", "5", *words])) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()[-8:]
    assert " ".join(head.split()) == "seconds of the clock of the arithmetic of 8 steps"
    table = {line.split()[0]: line.split()[1:] for line in lines}
    assert table.keys() == {"start", "photos", "steps", "measures", "grids", "checkpoints"}
    for column in (1, 2, 3):
        parts = [float(row[column].rstrip("%")) for row in table.values() if row[column] != "-"]
        assert sum(parts) == pytest.approx(100, abs=0.3)
        assert min(parts) >= 0
    assert float(last.split()[0][1:]) * 2 == pytest.approx(float(table["steps"][0]), abs=0.1)
    size, longer = shares.Size(2, 2), shares.Size(8, 5)
    parts = {"start": 1.0, "photos": 2.0, "steps": 3.0, "grids": 4.0, "checkpoints": 6.0}
    told = shares.of_a_longer_fit(parts, size, longer)
    assert told == {"start": 1, "photos": 2, "steps": 12, "grids": 10, "checkpoints": 15}
    with pytest.raises(SystemExit, match="takes two numbers"):
        shares.arguments(["--extrapolate", "8", "--trainer.max_steps=2"])


def test_the_one_command_for_a_card_runs_commands_that_exist(tmp_path: Path, monkeypatch, capfd):
    gpu = script("scripts/benchmark_gpu.py")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "PyTorch finds none here" in capfd.readouterr().err
    assert (
        FrozenClip.load(gpu.random_clip(tmp_path / "clip-random", width=12))
        .embed_texts(["a tree"])
        .isfinite()
        .all()
    )
    shutil.copytree(DATA / "tiny_sd", tmp_path / "sd15-random")
    words = gpu.commands(tmp_path, 100)
    fit, longer = script("scripts/benchmark_shares.py").arguments(words["benchmark_shares.py"])
    with pytest.raises(SystemExit):
        main(["fit", *fit, "--print_config"])
    config = yaml.safe_load(capfd.readouterr().out)
    assert (config["trainer"]["max_steps"], config["seed_grid"]["steps"]) == (100, "0,100")
    assert (config["data"]["init_args"]["instance_dir"], longer) == ("coffee", (1600, 4))
    for name in ("benchmark_card.py", "benchmark_fit.py"):
        assert script(f"scripts/{name}").arguments(words[name]).workdir == tmp_path / "sd15-random"
    assert gpu.run("compare_prints.py", ["--nonsense"], 60) == "compare_prints.py failed with status 2"
    assert "was ended: the time was over" in gpu.run("benchmark_fit.py", ["--rounds=9"], 0)


def test_the_start_is_timed_to_the_first_step(tiny_sd: str, tmp_path: Path):
    start = script("scripts/benchmark_start.py")
    few = [f"--model.pipeline={tiny_sd}", "--seed_grid.groups=null", "--step_checkpoint.steps="]
    assert 0 < start.first_step(tmp_path, few) < 600
    with pytest.raises(SystemExit, match=r"error: seed_grid\.groups"):
        start.first_step(tmp_path, ["--seed_grid.groups=3"])


def test_the_benchmark_of_a_sweeps_report_tells_what_it_takes(capsys):
    script("scripts/benchmark_sweep_report.py").main(["--cells", "8", "--seeds", "2", "--scales", "2"])
    lines = capsys.readouterr().out.splitlines()
    told = [line.split() for line in lines if not line[10:20].strip() or line[:10].strip().isdecimal()]
    assert [line[0] for line in told] == ["8"]
    assert int(told[0][4]) == 8 + 3 + 2  # pictures; index, tables and page; a sheet for each prompt


def test_a_made_up_corridor_is_what_the_real_code_reads(tmp_path: Path, capsys):
    corridor = script("scripts/benchmark_corridor.py")
    corridor.make_corridor(tmp_path, 4)
    found = {name: corridor.measured(name, tmp_path, 4) for name in corridor.MEASURES}
    assert all(cost.seconds > 0 for cost in found.values())
    page = (tmp_path / "tb_logs/coffee/corridor/corridor.html").read_text()
    assert "4 fits × 3 milestones" in page
    assert len(re.findall("steps: (?:dreaming|forgetting|under-drifted)", page)) == 8  # two fits go on
    assert found["tab"].about == found["again"].about
    assert corridor.exponent([10, 20], [3.0, 12.0]) == "grows with the power 2.00"
