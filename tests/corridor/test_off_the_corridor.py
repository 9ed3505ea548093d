"""A broken model has a zone and no position: what the table, the choice and the page make of it."""

import json
import re
from pathlib import Path

from helpers.corridor_runs import write_run

from lightning_drift.corridor.choice import choose
from lightning_drift.corridor.fit_queue import describe
from lightning_drift.corridor.overview import overview
from lightning_drift.corridor.read import read
from lightning_drift.corridor.report import write_report

BROKEN = {8: ("dreaming", None, 41.0), 16: ("broken", "cooked", None)}


def test_a_broken_checkpoint_is_measured_and_has_no_position(tmp_path: Path) -> None:
    write_run(tmp_path / "lr2e-6", 2e-6, (8, 16), BROKEN)
    table = read(tmp_path)
    cell = table.cells["lr2e-6", 16]
    assert (cell.state, cell.zone, cell.borderline, cell.position) == ("measured", *BROKEN[16])
    assert describe(cell) == "broken (borderline cooked)"
    assert table.runs[0].scalars["drift/position"] == [(8, 41.0)]
    assert overview(table).width > 0


def test_where_all_are_broken_the_advice_is_about_them(tmp_path: Path) -> None:
    write_run(tmp_path / "lr2e-6", 2e-6, (8,), {8: ("broken", None, None)})
    sentence = choose(read(tmp_path)).sentence
    assert sentence.startswith("No checkpoint dreams. All of them have gone past it")


def test_the_page_shows_the_zone_and_its_border_without_a_number(tmp_path: Path) -> None:
    write_run(tmp_path / "lr2e-6", 2e-6, (8, 16), BROKEN)
    write_report(tmp_path, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert 'aria-label="lr 2e-6, 16 steps: broken, borderline cooked"' in text
    assert '<span class="label">broken<small>near cooked</small></span>' in text
    match = re.search(r'<script type="application/json" id="corridor">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    base, dream, broken = json.loads(match[1])["cells"][0]
    assert (dream["position"], dream["reason"]) == (41.0, "Because of dreaming.")
    assert (broken["position"], broken["reason"]) == (None, "Because of broken.")
    assert base["position"] is None
