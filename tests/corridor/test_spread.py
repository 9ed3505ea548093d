"""Fits that differ in their seed alone: what the page says of recipe and luck, and which cell is chosen."""

from pathlib import Path

import pytest
import yaml
from helpers.corridor_runs import write_run

from lightning_drift.corridor.choice import choose
from lightning_drift.corridor.read import read
from lightning_drift.corridor.report import write_report
from lightning_drift.corridor.spread import siblings, spreads

Verdicts = dict[int, tuple[str, str | None, float | None]]


def run(folder: Path, rate: float, seed: int, verdicts: Verdicts) -> Path:
    folder = write_run(folder / f"lr{rate:g}_seed{seed}", rate, (8, 16), verdicts)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"seed_everything": seed}))
    return folder


@pytest.fixture
def corridor(tmp_path: Path) -> Path:
    """At 16 steps one of three seeds forgets; another rate has one seed."""
    for seed, position in enumerate((55.0, 52.0, 61.0)):
        late = ("forgetting", None, 61.0) if seed == 2 else ("dreaming", None, position)
        run(tmp_path, 2e-6, seed, {8: ("dreaming", None, 30.0 + seed), 16: late})
    run(tmp_path, 4e-6, 0, {8: ("cooked", None, 90.0)})
    return tmp_path


def test_a_cell_over_seeds_says_how_far_they_agree(corridor: Path) -> None:
    table = read(corridor)
    (rate,) = spreads(table)
    early, late = spreads(table)[rate]
    assert rate == "2e-6"
    assert early is not None
    assert late is not None
    assert (early.verdict, early.position) == ("dreaming, all 3", "31, from 30 to 32")
    assert (late.verdict, late.position) == ("dreaming 2, forgetting 1", "56, from 52 to 61")
    assert (late.zone, list(late.zones)) == ("dreaming", ["dreaming", "forgetting"])


def test_a_step_at_which_all_seeds_dream_goes_before_luck(corridor: Path) -> None:
    choice = choose(read(corridor))
    assert choice.cell is not None
    assert (choice.cell.run, choice.cell.step) == ("lr2e-06_seed2", 8)  # 55 of 100 at step 16 is luck
    assert choice.sentence.startswith("Learning rate 2e-6, step 8, seed 2 (over seeds: dreaming, all 3): ")


def test_a_fit_with_another_setting_or_the_same_seed_is_no_sibling(corridor: Path) -> None:
    other = corridor / "lr2e-06_seed1" / "config.yaml"
    config = yaml.safe_load(other.read_text())
    config["model"]["init_args"]["train_text_encoder"] = False
    other.write_text(yaml.safe_dump(config))
    write_run(corridor / "again", 2e-6, (8, 16), {8: ("cooked", None, 90.0)})
    kin = {name: [run.name for run in runs] for name, runs in siblings(read(corridor)).items()}
    assert kin["lr2e-06_seed1"] == ["lr2e-06_seed1"]
    assert kin["again"] == kin["lr2e-06_seed2"] == ["again", "lr2e-06_seed2"]  # seed 0 is there by the first
    assert kin["lr2e-06_seed0"] == ["lr2e-06_seed0"]


def test_a_class_of_somebody_elses_configuration_is_not_imported(corridor: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("antigravity.A", "this.B")):
        path = corridor / f"lr2e-06_seed{seed}" / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["model"]["class_path"] = name
        path.write_text(yaml.safe_dump(config))
    import sys

    assert len(siblings(read(corridor))["lr2e-06_seed0"]) == 1
    assert not {"antigravity", "this"} & sys.modules.keys()


def test_the_page_shows_seeds_and_what_they_agree_on(corridor: Path) -> None:
    page = corridor / "corridor.html"
    write_report(corridor, page)
    text = page.read_text()
    assert "Recipe or luck" in text
    assert '<td class="dreaming split">dreaming 2, forgetting 1<small>56, from 52 to 61</small></td>' in text
    assert "lr 2e-6, seed 1" in text
    assert "<dt>seeds</dt><dd>0, 1, 2</dd>" in text
    lead = '<p class="lead">After 8 steps of lr 2e-6, seed 2 the model dreams: 32 of 100.</p>'
    assert lead in text
