"""What held-out photos tell: the command at its smallest size, and its statistics in closed form."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training.calibration import held_out, told_apart
from training.calibration.labelled_cells import LABELS


def test_a_fit_keeps_curves_of_photos_that_it_never_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "EVERY", 2)
    monkeypatch.setattr(held_out, "KEPT", 2)
    held_out.fit("coffee", "1e-4", tmp_path, tmp_path, last=2)
    curves = load_file(tmp_path / "curves" / "coffee_1e-4.safetensors")
    assert set(curves) == {f"{kind}/{step:05d}" for kind in ("trained", "held_out") for step in (0, 2)}
    assert {tuple(errors.shape) for errors in curves.values()} == {(6, 4), (2, 4)}
    assert (tmp_path / "weights" / "coffee_1e-4_00002.safetensors").is_file()
    told = held_out.on_the_way(curves, 2)
    ratios = (curves["held_out/00002"].log() - curves["held_out/00000"].log()).mean().exp()
    assert told["held_out"] == pytest.approx(float(ratios))
    assert told["turn"] == pytest.approx(max(1.0, float(ratios)))
    assert told["past_turn"] in (0.0, 2.0)


def test_the_turn_is_told_from_the_least_so_far() -> None:
    curves = {}
    for number, loss in enumerate((1.0, 0.5, 0.4, 0.6, 0.3)):
        for kind in ("trained", "held_out"):
            curves[f"{kind}/{number * held_out.EVERY:05d}"] = torch.full((2, 4), 2 * loss)
    at = [held_out.on_the_way(curves, number * held_out.EVERY) for number in (2, 3, 4)]
    assert [round(each["turn"], 6) for each in at] == [1.0, 1.5, 1.0]
    assert [each["past_turn"] for each in at] == [0.0, held_out.EVERY, 0.0]
    assert at[2]["variance"] == pytest.approx(1.0)  # all times are the last five


def rows(**values: Any) -> list[dict[str, Any]]:
    beyond = [False, False, True, True] * 3
    return [
        {"set": "abc"[i // 4], "rate": "1e-4", "step": i, "beyond": out}
        | {name: each[i % 4] for name, each in values.items()}
        for i, out in enumerate(beyond)
    ]


def test_what_tells_all_and_what_tells_nothing() -> None:
    table = rows(all=[1.0, 2.0, 3.0, 4.0], less=[4.0, 3.0, 2.0, 1.0], none=[1.0, 2.0, 1.0, 2.0])
    assert told_apart.interval(table, "all") == (1.0, 1.0)
    assert told_apart.left_out(table, "all") == told_apart.left_out(table, "less") == 12
    assert told_apart.left_out(table, "none") == 6
    best, *_, last = told_apart.judged(table)[3:]
    assert best.startswith(("all ", "less "))
    assert last.startswith("none ")
    # The threshold of the other sets is what counts, so a set that lies apart is told wrong.
    apart = [row | ({"all": row["all"] + 10} if row["set"] == "c" else {}) for row in table]
    assert told_apart.left_out(apart, "all") == 10
    (low, high), (wide_low, wide_high) = told_apart.wilson(90, 100), told_apart.wilson(9, 10)
    assert wide_low < low < 0.9 < high < wide_high


def test_the_tables_are_read_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told_apart, "DRAWS", 5)
    told_apart.main([])
    said = capsys.readouterr().out
    for name in ("held_out", "denoiser"):
        with (LABELS / f"{name}.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        assert len(table) > 40
    assert "by the verdict of their pictures" in said
    assert said.count("told right") == 2
    assert "returns by" in said
