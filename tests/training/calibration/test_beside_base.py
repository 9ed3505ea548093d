"""Sampling beside the base, and soups: statistics in closed form, and tables in the docs as printed."""

from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT

from training.calibration import beside_base, soups


def beside(kind: str, setting: str, language: float, pull: float) -> dict[str, str]:
    return {
        "set": "coffee",
        "step": "1600",
        "kind": kind,
        "setting": setting,
        "language": f"{language}",
        "pull": f"{pull}",
    }


def test_a_gain_is_what_exceeds_the_dial_at_the_same_language() -> None:
    dial = [beside("dial", "0.5", 0.9, 0.1), beside("dial", "1", 0.6, 0.4)]
    found = beside_base.gains(
        [
            *dial,
            beside("everywhere", "0.7", 0.75, 0.3),  # the dial has 0.25 there
            beside("layout by the base", "0/1@0.3", 0.95, 0.15),  # 0.05, between the dial and the base
            beside("everywhere", "1.5", 0.5, 0.9),  # beyond what the dial was measured at
        ]
    )
    cell = ("coffee", "1600")
    assert found["0.7"][cell] == pytest.approx(0.05)
    assert found["0/1@0.3"][cell] == pytest.approx(0.10)
    assert "1.5" not in found


def soup(run: str, step: int, zone: str, language: float, pull: float, loss: float) -> dict[str, str]:
    values: dict[str, Any] = {"language": language, "pull": pull, "photo_loss": loss}
    return {"run": run, "step": f"{step}", "zone": zone} | {
        name: f"{value}" for name, value in values.items()
    }


def test_a_soup_is_held_against_its_fits_at_the_same_step_and_language() -> None:
    rows = [
        soup("seed 0", 200, "dreaming", 0.9, 0.1, 0.6),
        soup("seed 1", 200, "dreaming", 0.8, 0.3, 0.4),
        soup("soup", 200, "dreaming", 0.95, 0.1, 0.5),
        soup("seed 0", 400, "forgetting", 0.6, 0.4, 0.3),
        soup("seed 1", 400, "dreaming", 0.5, 0.6, 0.1),
        soup("soup", 400, "dreaming", 0.7, 0.4, 0.2),
    ]
    assert soups.dreams_until([row for row in rows if row["run"] == "seed 0"]) == 200
    assert soups.dreams_until([row for row in rows if row["run"] == "soup"]) == 400
    assert soups.dreams_until([soup("soup", 200, "forgetting", 0, 0, 0)]) == 0
    assert soups.differences(rows, "language") == pytest.approx([0.10, 0.15])
    # The fits' means: language 1, 0.85, 0.55; pull 0, 0.2, 0.5; loss 1, 0.5, 0.2.
    assert soups.beyond(rows, "pull") == pytest.approx([0.1 - 0.2 / 3, 0.4 - 0.35])
    assert soups.beyond(rows, "photo_loss") == pytest.approx([0.5 - (1 - 0.5 / 3), 0.2 - 0.35])


@pytest.mark.parametrize(
    ("table", "page"),
    [(beside_base.table, "export.md"), (soups.table, "corridor.md")],
    ids=["beside", "soups"],
)
def test_the_docs_say_what_the_command_prints(table: Any, page: str) -> None:
    text = Path(ROOT / "docs" / page).read_text(encoding="utf-8")
    for line in table().splitlines()[2:]:
        assert line in text
