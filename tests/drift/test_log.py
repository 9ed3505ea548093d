"""What a reading says in lines, numbers and files, and that every deciding measure is explained."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from lightning_drift.drift.log import COMPARED, Reading, charts
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL, Thresholds, judge

BROKEN = {
    "language": 0.98,
    "drift_prompt": 0.07,
    "tilt": 0.3,
    "spread": 1.0,
    "copy": 0.0,
    "pull": 0.02,
    "aim": 0.3,
    "likeness": 0.0,
    "photo_loss": 1.01,
}
THRESHOLDS = {"language": ["language_keep", "language_lost"]}
"""Thresholds whose names differ from their measure's."""


def reading(**changes: float) -> Reading:
    measures = {name: Interval(value, value, value) for name, value in (BROKEN | changes).items()}
    limits = Thresholds()
    return Reading(
        800, measures, judge(measures, limits), "", {"text": 0.9}, {"unet": 0.01}, limits, "pocket"
    )


def test_a_broken_model_has_no_position_in_lines_numbers_and_files(tmp_path: Path) -> None:
    broken, dream = reading(), reading(photo_loss=0.8)
    assert broken.line.startswith("step 800: broken. The model has become worse at your own photos")
    assert "of 100" not in broken.markdown
    assert dream.line.startswith("step 800: dreaming, 27 of 100. The prompts still")
    assert dream.scalars().keys() - broken.scalars().keys() == {"drift/position"}
    assert broken.scalars()["drift/zone"] == 4
    broken.save(tmp_path / "broken.json")
    dream.save(tmp_path / "dream.json")
    contents = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("broken", "dream")]
    assert [content["position"] for content in contents] == [None, dream.scalars()["drift/position"]]
    assert contents[0].keys() == contents[1].keys()
    assert contents[0]["zone"] == "broken"


def test_without_a_verdict_there_is_none_anywhere() -> None:
    blind = replace(reading(), verdict=None, unavailable="no CLIP is given")
    assert blind.line == "step 800: verdict not available: no CLIP is given"
    assert not {"drift/zone", "drift/position"} & blind.scalars().keys()


@pytest.mark.parametrize("name", [*DECIDING, *WITH_MODEL])
def test_every_deciding_measure_has_a_column_a_chart_against_its_thresholds(name: str) -> None:
    assert name in COMPARED
    lines = {f"corridor/{threshold}$" for threshold in THRESHOLDS.get(name, [name])}
    drawn = [set(tags) for _, tags in charts()["corridor"].values()]
    assert lines | {f"drift/{name}$"} in drawn
    assert lines <= {f"{tag}$" for tag in reading().scalars()}


def test_every_threshold_has_help() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(Thresholds, "thresholds")
    helps = {action.dest: action.help for action in parser._actions}
    for field in fields(Thresholds):
        text = helps[f"thresholds.{field.name}"]
        assert text, field.name
        assert len(text) > 12, field.name
