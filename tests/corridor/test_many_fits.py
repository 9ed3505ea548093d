"""Corridors of many fits: what a driver asks of the disk and of itself grows with them, and no faster."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from helpers.asked_files import asked_files
from helpers.browser import browser
from helpers.browser_session import BrowserSession
from helpers.corridor_runs import SEEDS, config, write_run

from lightning_drift.corridor import page as page_module
from lightning_drift.corridor import sampled_runs as sampled_module
from lightning_drift.corridor.choice import Choice, choose
from lightning_drift.corridor.curves import curves
from lightning_drift.corridor.fit_queue import FitQueue
from lightning_drift.corridor.overview import overview
from lightning_drift.corridor.page import corridor_page
from lightning_drift.corridor.plan import Plan, make_plan, recipe_key, take_up
from lightning_drift.corridor.read import read
from lightning_drift.corridor.recorded_run import CorridorCell, RecordedRun
from lightning_drift.corridor.report import write_report
from lightning_drift.corridor.sampled_runs import sampled_runs
from lightning_drift.corridor.spread import siblings, spreads
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.corridor.wording import labels
from lightning_drift.launchers.local import LocalLauncher

STEPS = (8, 16)
PROMPT = ("a tree & a #moon",)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Six finished fits; of the last one the second milestone is missing."""
    monkeypatch.chdir(tmp_path)
    shared = config(1e-6, STEPS, prompts=PROMPT)
    plan = take_up(make_plan(shared, "1e-6,2e-6,3e-6,4e-6,5e-6,6e-6", "8,16", "corridor"))
    for row in plan.rows:
        steps = STEPS[:1] if row == plan.rows[-1] else STEPS
        write_run(plan.run(row), row.rate, steps, {8: ("dreaming", None, 30.0)}, prompts=PROMPT)
        for step in steps:
            content = {"state_dict": {"weight": torch.zeros(1)}, "global_step": step}
            torch.save(content, plan.run(row) / "checkpoints" / f"step={step:05d}.ckpt")
    return plan


def logs(asked: list[Path]) -> dict[str, float]:
    """How often the event files of each run were read; each is opened twice, first to look what it is."""
    opened = Counter(path.parent.name for path in asked if path.name.startswith("events.out"))
    return {name: count / 2 for name, count in opened.items()}


def queue(plan: Plan) -> FitQueue:
    return FitQueue(plan, plan.rows, LocalLauncher(["cpu"]), lambda: None)


def test_a_driver_reads_of_each_fit_its_own_files_once(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    with asked_files() as asked:
        fits = queue(plan)
    assert logs(asked) == {row.name: 1 for row in plan.rows}
    (fit,) = fits.waiting
    with asked_files() as asked:
        fits.looked(fit)
    assert not asked  # nothing is due
    capsys.readouterr()
    path = fit.folder / "checkpoints" / "step=00016.ckpt"
    path.hardlink_to(fit.folder / "checkpoints" / "step=00008.ckpt")
    with asked_files() as asked:
        fits.looked(fit)
        fits.looked(fit)
    assert logs(asked) == {fit.folder.name: 1}
    assert re.match(r"lr 6e-6 x 16: not measured|lr 6e-6 x 16: not run", capsys.readouterr().out)


def test_a_page_lists_each_folder_of_pictures_a_fixed_number_of_times(plan: Plan) -> None:
    with asked_files() as asked:
        write_report(plan.folder, plan.folder / "corridor.html")
    grids = Counter(path for path in asked if path.parent.name == "grids" and path.name.startswith("step="))
    assert len(grids) == 6 * 3
    assert {*grids.values()} == {1}
    assert logs(asked) == {row.name: 1 for row in plan.rows}


def test_pictures_that_are_too_many_for_a_page_are_loaded_from_where_they_lie(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = plan.folder.parent / "pages" / "all.html"
    page.parent.mkdir()
    write_report(plan.folder, page)
    text = page.read_text()
    assert "too many" not in text
    assert "data:image/webp" in text
    assert "img-src data:;" in text
    assert "loads its pictures" not in capfd.readouterr().err

    monkeypatch.setattr(page_module, "MOST_EMBEDDED", 11 * len(SEEDS) - 1)
    write_report(plan.folder, page)
    text = page.read_text()
    assert "The pictures are too many to lie in this file" in text
    assert f"{page} loads its pictures from the runs' folders" in capfd.readouterr().err
    data = json.loads(re.findall(r'<script type="application/json" id="corridor">(.*?)</script>', text)[0])
    files = {(page.parent / unquote(address)).resolve() for address in data["pictures"]}
    # Of every fit its own picture of the base, and one for each checkpoint.
    assert files == {path.resolve() for path in plan.folder.glob("*/grids/step=*/*.png")}
    assert len(files) == (6 + 11) * len(SEEDS)
    tiles = re.findall(r'<img src="([^"]*)" loading="lazy"', text)
    assert len(tiles) == 11 + 1  # the map, with the base once
    assert {*tiles} < {*data["pictures"]}


@browser
def test_a_browser_shows_pictures_that_lie_beside_the_page(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page_module, "MOST_EMBEDDED", 1)
    page = tmp_path / "a page #1.html"
    write_report(plan.folder, page)
    with BrowserSession(tmp_path / "profile") as session:
        session.open(page.as_uri())
        session.wait("document.querySelector('table.map img').naturalWidth === 16")
        session.wait("document.querySelector('#pictures .now img').naturalWidth === 16")


def test_a_long_corridor_shows_some_of_its_runs_together_and_all_on_the_map(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    table = read(plan.folder)
    choice = choose(table)
    assert sampled_runs(table, choice) == [0, 1, 2, 3, 4, 5]
    whole = overview(table)
    assert overview(table, range(6)).tobytes() == whole.tobytes()

    monkeypatch.setattr(sampled_module, "MOST_RUNS", 3)
    for chosen in range(6):
        cell = CorridorCell(table.runs[chosen].name, 8, "measured", "dreaming")
        shown = sampled_runs(table, Choice(cell, ""))
        assert len(shown) == 3
        assert {0, chosen, 5} <= {*shown}
    shown = sampled_runs(table, choice)
    assert overview(table, shown).height < 0.7 * whole.height
    assert {len(curve.lines) for curve in curves(table, False, shown)} == {3}
    text = corridor_page(table, choice)
    assert "drawn: 3 of the 6 runs, evenly spaced" in text
    assert len(re.findall(r'data-run="\d" data-step', text)) == 12  # the map has all
    write_report(plan.folder, plan.folder / "corridor.html")
    assert "corridor.png and the curves of the page show 3 of the 6 runs" in capfd.readouterr().err


def many(fits: int) -> CorridorTable:
    """A table of fits at one rate, which differ in their seeds or in an option."""
    runs, cells = [], {}
    for number in range(fits):
        own = config(1e-6, STEPS) | {"seed_everything": number % 3, "option": number // 3}
        run = RecordedRun(f"run{number}", Path(f"run{number}"), 1e-6, own)
        run.scalars = {"drift/position": [(step, 30.0) for step in STEPS]}
        runs.append(run)
        cells |= {(run.name, step): CorridorCell(run.name, step, "measured", "dreaming") for step in STEPS}
    return CorridorTable(Path("made"), "made up", runs, list(STEPS), cells)


def calls(work: Callable[[CorridorTable], Any], table: CorridorTable) -> int:
    """How many functions are called."""
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        work(table)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("work", [siblings, labels, spreads, choose, lambda table: curves(table, True)])
def test_twice_the_fits_are_twice_the_work(work: Callable[[CorridorTable], Any]) -> None:
    work(many(3))  # what is done once only
    assert calls(work, many(120)) < 2.3 * calls(work, many(60))


def test_a_recipe_is_told_by_what_decides_its_pictures() -> None:
    one = config(1e-6, STEPS)
    key = recipe_key(one)
    assert recipe_key(config(2e-6, (8, 32)) | {"seed_everything": 3, "absent": None}) == key
    assert recipe_key({**one, "trainer": {**one["trainer"], "devices": 2}}) == key
    assert recipe_key({**one, "trainer": {**one["trainer"], "max_epochs": 2}}) != key
    assert recipe_key({**one, "seed_grid": None}) != key
    assert recipe_key({**one, "extra": {}}) != recipe_key({**one, "extra": None})
    assert recipe_key({**one, "extra": [1, {"b": [2]}]}) == recipe_key({**one, "extra": [1.0, {"b": [2]}]})
    assert recipe_key({**one, "extra": [1, 2]}) != recipe_key({**one, "extra": [2, 1]})
