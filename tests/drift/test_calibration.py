"""Thresholds that agree with labels: planted ones are found, the shipped ones stay without gain."""

import random
from dataclasses import replace

import pytest

from lightning_drift.drift.calibration import ENOUGH, Labelled, agreement, best_thresholds, calibrate
from lightning_drift.drift.verdict import Thresholds, zone_of

SHIPPED = Thresholds()
PLANTED = {
    "drift_prompt": {"drift_prompt": 0.15, "tilt": 0.6},
    "language_keep": {"language_keep": 0.6},
    "language_lost": {"language_lost": 0.45, "spread": 0.6},
    "all": {"drift_prompt": 0.12, "tilt": 0.5, "language_keep": 0.85, "language_lost": 0.2, "spread": 0.5},
}


def along(progress: float, noise: random.Random) -> dict[str, float]:
    """What a checkpoint somewhere in a corridor measures, from the base at 0 to cooked at 1."""

    def near(value: float) -> float:
        return value * (1 + 0.1 * noise.uniform(-1, 1))

    return {
        "language": near(1 - 0.95 * progress**1.5),
        "drift_prompt": near(0.9 * progress),
        "tilt": near(2 * progress),
        "spread": near(1 - 0.9 * progress**2),
        "copy": 0.0,
        "pull": near(0.1 + 0.6 * progress),
        "aim": 0.7,
        "likeness": near(0.1 + 0.4 * progress),
        "photo_loss": near(0.7),
    }


def labels(thresholds: Thresholds, count: int, seed: int = 0) -> list[Labelled]:
    noise = random.Random(seed)
    measured = [along(index / (count - 1), noise) for index in range(count)]
    return [Labelled(each, zone_of(each, thresholds)) for each in measured]


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_planted_thresholds_are_found(planted: dict[str, float]) -> None:
    truth = replace(SHIPPED, **planted)
    said, new = labels(truth, 40), labels(truth, 200, seed=1)
    found = best_thresholds(said, SHIPPED)
    assert agreement(said, SHIPPED) < agreement(said, found) == len(said)
    # And on checkpoints that were not labelled, near the borders too.
    assert agreement(new, SHIPPED) < 0.95 * len(new) <= agreement(new, found)
    assert {name for name, value in found.numbers().items() if value != SHIPPED.numbers()[name]} <= set(
        planted
    )


def test_what_agrees_already_is_left_as_it_is_and_the_order_of_labels_is_nothing() -> None:
    said = labels(SHIPPED, 30)
    assert best_thresholds(said, SHIPPED) == SHIPPED
    assert best_thresholds([], SHIPPED) == SHIPPED
    said = labels(replace(SHIPPED, **PLANTED["all"]), 30)
    found = best_thresholds(said, SHIPPED)
    random.Random(0).shuffle(said)
    assert best_thresholds(said, SHIPPED) == found


def test_no_gain_moves_nothing() -> None:
    """A label that no border can meet without missing another one."""
    said = labels(SHIPPED, 30)
    middle = next(label for label in said if label.zone == "dreaming")
    contradicted = [*said, Labelled(middle.measures, "cooked")]
    assert best_thresholds(contradicted, SHIPPED) == SHIPPED
    # Nor does a label that could be missed by fewer zones only.
    near = Labelled(along(0.4, random.Random(3)) | {"language": 0.8, "copy": 0.9}, "under-drifted")
    assert zone_of(near.measures, SHIPPED) == "cooked"
    worse = Labelled(along(0.4, random.Random(3)) | {"language": 0.2, "pull": 0.1}, "dreaming")
    assert best_thresholds([*said, near, worse], SHIPPED) == SHIPPED


def test_the_smallest_move_wins_and_it_lies_between_the_labels() -> None:
    measures = along(0.4, random.Random(3)) | {"spread": 1.0}
    said = [
        Labelled(measures | {"language": 0.5}, "forgetting"),
        Labelled(measures | {"language": 0.7}, "dreaming"),
    ]
    assert best_thresholds(said, SHIPPED) == replace(SHIPPED, language_keep=0.6)
    alone = best_thresholds(said[1:], SHIPPED)  # nothing says where forgetting begins
    assert alone == replace(SHIPPED, language_keep=0.665)


def test_leaving_one_out_counts_each_label_by_the_others() -> None:
    measures = along(0.4, random.Random(3)) | {"spread": 1.0}
    # Dreaming down to 0.52 and forgetting from 0.5: without one of these two the border lies beyond it.
    zones = {0.9: "dreaming", 0.7: "dreaming", 0.52: "dreaming", 0.5: "forgetting", 0.2: "cooked"}
    said = [Labelled(measures | {"language": language}, zone) for language, zone in zones.items()]
    found = calibrate(said)
    assert (found.labels, found.before, found.after, found.left_out) == (5, 3, 5, 3)
    by_hand = [
        agreement([label], best_thresholds([other for other in said if other is not label], SHIPPED))
        for label in said
    ]
    assert by_hand == [1, 1, 0, 0, 1]
    assert found.moved == ("language_keep",)
    assert found.missing == ("under-drifted",)
    few, missing, no_better = found.warnings()
    assert "5 labels are too few" in few
    assert "nothing was labelled under-drifted, so its borders were not tested" in missing
    assert "met no more often (3 of 5) than by the former thresholds (3)" in no_better
    many = replace(found, labels=ENOUGH, missing=())
    assert len(many.warnings()) == 1
    assert not replace(many, left_out=4).warnings()
