"""What pages say of measures covers all that are logged, and names thresholds that exist."""

from dataclasses import fields

from lightning_drift.drift.descriptions import DESCRIPTIONS
from lightning_drift.drift.measures.loss_curve import KINDS
from lightning_drift.drift.metric import MEASURES
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL, Thresholds


def test_every_measure_is_described_and_what_decides_has_its_thresholds() -> None:
    described = {each.tag.removeprefix("drift/"): each for each in DESCRIPTIONS}
    assert len(described) == len(DESCRIPTIONS)
    assert {*MEASURES, *WITH_MODEL} <= set(described)
    beside = {each.beside.removeprefix("drift/") for each in DESCRIPTIONS if each.beside}
    curves = {f"loss_{kind}{level}" for kind in KINDS for level in ("", "_25", "_35", "_55", "_75")}
    others = {
        "memorising",
        "held_out_loss",
        "departure",
        "departure_language",
        "prompt_force",
        "texture",
        "updates",
    }
    assert curves | others <= set(described) | beside
    assert not beside & set(described)
    limits = {field.name for field in fields(Thresholds)}
    assert all(set(each.thresholds) <= limits for each in DESCRIPTIONS)
    assert {name for name, each in described.items() if each.thresholds} == {*DECIDING, *WITH_MODEL}
    assert {name for name, each in described.items() if each.decides} == {"position", *DECIDING, *WITH_MODEL}
