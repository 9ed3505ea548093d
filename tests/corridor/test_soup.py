"""The mean of fits that differ in their seeds: its weights, its row of the page, and what it is good for."""

from pathlib import Path
from typing import Any

import torch
from helpers.corridor_runs import write_run
from helpers.paths import DATA

from lightning_drift.cli import main
from lightning_drift.corridor.read import read
from lightning_drift.corridor.soup import mean
from lightning_drift.corridor.spread import siblings
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.stable_diffusion.loading import open_pipeline

GROUPS = "{dream: {prompts: a tree, seeds: 0-1}, language: {prompts: [a desert, a forest], seeds: 0-1}}"
STEP = Path("checkpoints/step=00002.ckpt")


def test_the_mean_of_one_model_is_that_model() -> None:
    weights = torch.randn(1000) * 10 ** torch.randn(1000)
    for count in (1, 2, 3, 7):
        assert torch.equal(mean([weights] * count), weights)
    assert torch.equal(mean([weights.half(), weights.half()]), weights.half().float())


def test_a_soup_is_a_row_of_the_page_and_a_model_to_dream_with(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    corridor = tmp_path / "tb_logs" / "coffee" / "corridor"
    for seed in (0, 1):
        words = ["--trainer.max_steps=2", "--seed_grid.steps=0,2", "--seed_grid.num_inference_steps=1"]
        words += [f"--model.pipeline={DATA / 'tiny_sd'}", f"--seed_grid.groups={GROUPS}"]
        words += [f"--seed_everything={seed}", "--step_checkpoint.steps=2", "--model.learning_rate=1e-4"]
        words += [f"--trainer.logger.init_args.version=corridor/lr1e-4_seed{seed}"]
        assert main(["fit", *words, "--trainer.enable_progress_bar=false"]) == 0
    capsys.readouterr()
    assert main(["corridor", "soup", str(corridor), "--clip=pocket"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.startswith("lr1e-4_seed0_soup, step 2: ")

    soup = corridor / "lr1e-4_seed0_soup"
    ours = read_checkpoint(soup / STEP)
    pair = [read_checkpoint(corridor / f"lr1e-4_seed{seed}" / STEP)["state_dict"] for seed in (0, 1)]
    assert ours["state_dict"].keys() == pair[0].keys()
    assert all(torch.equal(ours["state_dict"][name], mean([one[name] for one in pair])) for name in pair[0])
    assert any(not torch.equal(ours["state_dict"][name], pair[0][name]) for name in pair[0])
    assert ours["recipe"]["soup"] == [0, 1]
    assert "optimizer_states" not in ours

    table = read(corridor)
    cell = table.cells[soup.name, 2]
    assert (cell.state, cell.checkpoint) == ("measured", soup / STEP)
    assert len(list(soup.glob("grids/step=00002/*.png"))) == 6
    assert [run.name for run in siblings(table)["lr1e-4_seed0"]] == ["lr1e-4_seed0", "lr1e-4_seed1"]
    page = (corridor / "corridor.html").read_text()
    assert '<th scope="row">1e-4, soup</th>' in page
    assert "Corridor, 2 fits and 1 soup × 1 milestone" in page
    assert "Recipe or luck" in page

    opened = open_pipeline(str(soup / STEP))
    name = next(iter(opened.weights["unet"].shapes))
    assert torch.equal(opened.weights["unet"].read(name), ours["state_dict"][f"unet.{name}"])
    before = {path: path.stat().st_mtime_ns for path in soup.rglob("*")}
    assert main(["corridor", "soup", str(corridor), "--clip=pocket"]) == 0
    assert {path: path.stat().st_mtime_ns for path in soup.rglob("*")} == before
    assert main(["fit", "-c", str(corridor / "lr1e-4_seed0/config.yaml"), f"--ckpt_path={soup / STEP}"]) == 2
    assert "is the mean of several fits and cannot be trained further" in capsys.readouterr().err


def test_a_corridor_of_one_seed_makes_no_soup(tmp_path: Path, capsys: Any) -> None:
    write_run(tmp_path / "lr2e-6", 2e-6, (8,), {8: ("dreaming", None, 41.0)})
    assert main(["corridor", "soup", str(tmp_path)]) == 2
    assert "lightning-drift corridor --seeds 0-2" in capsys.readouterr().err
