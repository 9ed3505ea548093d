import pytest

from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import DECIDING, ZONES, Thresholds, Verdict, judge

BASE = {
    "language": 1.0,
    "drift_prompt": 0.0,
    "tilt": 0.0,
    "spread": 1.0,
    "copy": 0.0,
    "pull": 0.0,
    "aim": 0.0,
    "likeness": 0.0,
}
DREAM = BASE | {"language": 0.9, "drift_prompt": 0.2, "tilt": 0.6, "pull": 0.2, "aim": 0.7, "likeness": 0.3}


def verdict(measures: dict[str, float], **intervals: tuple[float, float]) -> Verdict:
    exact = {name: Interval(value, value, value) for name, value in measures.items()}
    for name, (low, high) in intervals.items():
        exact[name] = Interval(measures[name], low, high)
    return judge(exact)


# Checkpoints of the pocket model's prototype (adherence, retrieval, drift_prompt, tilt, spread, pull, aim),
# by learning rate and steps, with and without the text encoder trained.
SWEEP = {
    "5e-6 x 100": ((0.99, 1.00, 0.018, 0.03, 1.00, 0.06, 0.70), "under-drifted"),
    "5e-6 x 400": ((0.98, 0.98, 0.048, 0.18, 1.00, 0.09, 0.66), "under-drifted"),
    "1e-5 x 400": ((0.97, 0.98, 0.089, 0.31, 1.01, 0.11, 0.67), "dreaming"),
    "1e-5 x 800": ((0.96, 0.98, 0.118, 0.39, 1.01, 0.10, 0.55), "dreaming"),
    "4e-5 x 1200": ((0.90, 0.93, 0.225, 0.78, 0.99, 0.19, 0.74), "dreaming"),
    "1.6e-4 x 1600": ((0.67, 0.61, 0.462, 1.23, 0.77, 0.34, 0.69), "forgetting"),
    "3.2e-4 x 800": ((0.32, 0.32, 0.732, 1.60, 0.30, 0.12, 0.27), "broken"),
    "6.4e-4 x 400": ((0.21, 0.12, 0.857, 1.73, 0.17, 0.16, 0.33), "broken"),
    "6.4e-4 x 1600": ((0.11, 0.07, 0.917, 1.98, 0.06, -0.03, 0.09), "broken"),
    "te 1e-5 x 100": ((0.91, 0.93, 0.164, 0.62, 0.93, 0.15, 0.49), "dreaming"),
    "te 1e-5 x 1600": ((0.83, 0.76, 0.300, 1.18, 0.96, 0.26, 0.72), "dreaming"),
    "te 4e-5 x 800": ((0.61, 0.51, 0.535, 1.47, 0.69, 0.50, 0.84), "forgetting"),
    "te 4e-5 x 1600": ((0.42, 0.29, 0.665, 1.62, 0.48, 0.62, 0.92), "forgetting"),
    "te 1.6e-4 x 400": ((0.24, 0.12, 0.832, 1.69, 0.21, 0.66, 0.89), "cooked"),
    "te 1.6e-4 x 1600": ((0.05, 0.02, 0.954, 1.94, 0.01, 0.85, 0.92), "cooked"),
}


@pytest.mark.parametrize("name", SWEEP)
def test_zones_of_the_prototype(name: str) -> None:
    (adherence, retrieval, drift_prompt, tilt, spread, pull, aim), zone = SWEEP[name]
    language = (adherence + max(retrieval, 0)) / 2
    found = verdict(
        BASE
        | {
            "language": language,
            "drift_prompt": drift_prompt,
            "tilt": tilt,
            "spread": spread,
            "pull": pull,
            "aim": aim,
            "likeness": 0.3,
        }
    )
    assert found.zone == zone
    if zone == "broken":
        assert found.position is None
    else:
        assert found.position is not None
        assert ZONES.index(zone) * 25 <= found.position <= ZONES.index(zone) * 25 + 25


def test_the_base_is_at_zero() -> None:
    found = verdict(BASE)
    assert (found.zone, found.borderline, found.position) == ("under-drifted", None, 0.0)


@pytest.mark.parametrize(
    ("changes", "zone"),
    [
        ({}, "dreaming"),
        # random changes of the base's weights: drift without a way to the photos
        ({"pull": 0.0, "aim": 0.1}, "broken"),
        ({"pull": -0.02, "aim": 0.2, "language": 1.1}, "broken"),
        # a true early drift: hardly any pull yet, but of the size of the drift
        ({"drift_prompt": 0.07, "tilt": 0.2, "pull": 0.03, "aim": 0.3}, "dreaming"),
        ({"drift_prompt": 0.02, "tilt": 0.25, "pull": 0.01, "aim": 0.3}, "dreaming"),
        ({"drift_prompt": 0.05, "tilt": 0.1, "pull": 0.0}, "under-drifted"),
        # nothing seen by CLIP's distance, yet prompts are mixed up: not a lack of drift
        ({"drift_prompt": 0.05, "tilt": 0.1, "language": 0.6}, "forgetting"),
        ({"language": 0.5, "pull": 0.0}, "broken"),
        ({"language": 0.5}, "forgetting"),
        ({"spread": 0.1, "pull": 0.9}, "cooked"),
        ({"spread": 0.1, "pull": 0.1}, "broken"),
        ({"language": 0.1, "pull": 0.9}, "cooked"),
        ({"language": 0.1, "pull": 0.9, "aim": 0.2}, "broken"),
        ({"language": 0.1, "pull": 0.9, "likeness": -0.2}, "broken"),
        ({"copy": 0.6}, "cooked"),
        # with the model at hand: what is not better at the photos is damage, wherever the pictures went
        ({"photo_loss": 0.7}, "dreaming"),
        ({"photo_loss": 0.97}, "dreaming"),
        ({"photo_loss": 1.0}, "broken"),
        ({"photo_loss": 1.4}, "broken"),
        ({"photo_loss": float("nan")}, "broken"),
        ({"photo_loss": 0.7, "pull": 0.0}, "broken"),
        ({"photo_loss": 1.4, "language": 0.5}, "broken"),
        ({"photo_loss": 1.4, "language": 0.6, "drift_prompt": 0.05, "tilt": 0.1}, "broken"),
        ({"photo_loss": 1.4, "language": 0.1, "pull": 0.9}, "broken"),
        ({"photo_loss": 0.4, "language": 0.1, "pull": 0.9}, "cooked"),
        # hardly drifted
        ({"photo_loss": 1.1, "drift_prompt": 0.05, "tilt": 0.1}, "under-drifted"),
    ],
)
def test_the_rule(changes: dict[str, float], zone: str) -> None:
    assert verdict(DREAM | changes).zone == zone


def test_the_pictures_alone_can_be_asked_to_decide() -> None:
    worse = {name: Interval(v, v, v) for name, v in (DREAM | {"photo_loss": 3.0}).items()}
    assert judge(worse, Thresholds(photo_loss=100.0)).zone == "dreaming"


def test_borderline_where_the_interval_that_decides_crosses_a_threshold() -> None:
    assert verdict(DREAM, language=(0.76, 0.95)).borderline is None
    assert verdict(DREAM, language=(0.65, 0.95)).borderline == "forgetting"
    assert verdict(DREAM | {"language": 0.6}, language=(0.5, 0.8)).borderline == "dreaming"
    assert verdict(DREAM, pull=(-0.1, 0.5)).borderline == "broken"
    # drift crosses its threshold, but the tilt alone has left the base
    assert verdict(DREAM, drift_prompt=(0.01, 0.4)).borderline is None
    early = DREAM | {"drift_prompt": 0.05, "tilt": 0.1}
    assert verdict(early, drift_prompt=(0.03, 0.08)).borderline == "dreaming"
    assert verdict(DREAM | {"photo_loss": 0.95}, photo_loss=(0.8, 1.1)).borderline == "broken"
    assert verdict(DREAM | {"photo_loss": 1.02}, photo_loss=(0.94, 1.1)).borderline == "dreaming"
    # two thresholds: the zone that takes more of an interval
    wide = verdict(DREAM | {"language": 0.68}, language=(0.1, 0.8))
    assert (wide.zone, wide.borderline) == ("forgetting", "broken")


def test_a_model_that_is_better_at_the_photos_is_not_borderline_broken_by_its_pictures() -> None:
    # Early in a dream the pull is small, and its interval wide.
    early = DREAM | {"language": 1.0, "drift_prompt": 0.08, "tilt": 0.25, "pull": 0.03, "aim": 0.3}
    assert verdict(early, pull=(-0.02, 0.06)).borderline == "broken"
    better = early | {"photo_loss": 0.7}
    assert verdict(better, pull=(-0.02, 0.06), photo_loss=(0.6, 0.8)).borderline is None
    # Not if it may be no better, or is known to be worse.
    for loss, interval in ((0.95, (0.8, 1.1)), (0.7, (0.6, 1.0))):
        found = verdict(early | {"photo_loss": loss}, pull=(-0.02, 0.06), photo_loss=interval)
        assert (found.zone, found.borderline) == ("dreaming", "broken")
    # Another border that an interval crosses is still said.
    near = better | {"tilt": 0.1}
    found = verdict(near, pull=(-0.02, 0.06), photo_loss=(0.6, 0.8), drift_prompt=(0.03, 0.1))
    assert (found.zone, found.borderline) == ("dreaming", "under-drifted")
    # What lost its language is cooked or broken by its pictures alone.
    cooked = DREAM | {"language": 0.1, "pull": 0.5, "likeness": 0.05, "photo_loss": 0.4}
    found = verdict(cooked, photo_loss=(0.3, 0.5), likeness=(-0.1, 0.2))
    assert (found.zone, found.borderline) == ("cooked", "broken")


def test_a_broken_model_is_off_the_corridor() -> None:
    # Its language is whole: the place where language is lost is not where it is.
    damaged = verdict(DREAM | {"language": 0.98, "drift_prompt": 0.07, "photo_loss": 1.01})
    assert (damaged.zone, damaged.position) == ("broken", None)
    assert verdict(DREAM | {"language": 0.1, "pull": 0.1}).position is None
    assert verdict(DREAM | {"language": 0.1, "pull": 0.9}).position is not None


def test_the_position_rises_along_the_corridor_without_jumps_inside_a_zone() -> None:
    last, zones = -1.0, []
    for i in range(2001):
        dose = i / 2000
        measures = BASE | {
            "drift_prompt": dose,
            "tilt": dose * 2,
            "language": 1 - dose,
            "spread": min(1.0, 1.5 - 1.5 * dose),
            "pull": dose,
            "aim": 0.8,
            "likeness": dose,
        }
        found = verdict(measures)
        assert found.position is not None
        assert found.position >= last
        if zones and found.zone == zones[-1]:
            assert found.position - last < 1
        else:
            zones.append(found.zone)
        last = found.position
    assert zones == ["under-drifted", "dreaming", "forgetting", "cooked"]
    assert last == 100


def test_reasons_are_sentences_with_the_numbers_that_decided() -> None:
    dream = verdict(DREAM | {"palette_pull": 0.3})
    assert dream.reason.startswith(
        "The prompts still decide the picture; the photos' colours have moved into"
    )
    assert "language 0.90" in dream.reason
    plain = verdict(DREAM | {"tilt": 0.3})
    assert "something of the photos" in plain.reason
    assert "damage" in verdict(DREAM | {"pull": 0.0}).reason
    worse = verdict(DREAM | {"photo_loss": 1.31})
    assert worse.reason.startswith(
        "The model has become worse at your own photos than the base was: this is d"
    )
    assert "loss on the photos 1.31 of the base's" in worse.reason
    assert "loss on the photos 0.70 of the base's" in verdict(DREAM | {"photo_loss": 0.7}).reason
    assert "loss on the photos" not in dream.reason
    assert "fallen apart" in verdict(DREAM | {"language": 0.1}).reason
    assert "copies of the photos" in verdict(DREAM | {"copy": 0.6}).reason
    for measures in (BASE, DREAM, DREAM | {"language": 0.5}, DREAM | {"spread": 0.1, "pull": 0.9}):
        assert verdict(measures).reason.endswith(").")


def test_no_verdict_without_a_deciding_measure() -> None:
    for name in DECIDING:
        measures = {key: Interval(value, value, value) for key, value in BASE.items() if key != name}
        with pytest.raises(ValueError, match=name):
            judge(measures)


def test_every_threshold_is_an_option_that_acts() -> None:
    """Each threshold moves the zone of some checkpoint."""
    at = {
        "drift_prompt": ({"tilt": 0.1}, 0.3),
        "tilt": ({"drift_prompt": 0.01, "pull": 0.2}, 0.9),
        "language_keep": ({}, 0.95),
        "language_lost": ({"language": 0.5}, 0.6),
        "spread": ({"spread": 0.5}, 0.6),
        "copy": ({"copy": 0.3}, 0.2),
        "pull": ({"language": 0.1, "pull": 0.5}, 0.6),
        "aim": ({"language": 0.1, "pull": 0.5}, 0.8),
        "stray": ({"pull": 0.05}, 0.5),
        "likeness": ({"language": 0.1, "pull": 0.5}, 0.4),
        "photo_loss": ({"photo_loss": 0.9}, 0.8),
    }
    assert set(at) == set(Thresholds().numbers())
    for name, (changes, value) in at.items():
        measures = {key: Interval(v, v, v) for key, v in (DREAM | changes).items()}
        assert judge(measures).zone != judge(measures, Thresholds(**{name: value})).zone, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tilt": 0.0}, r"clip_drift\.thresholds\.tilt: 0\.0 is not between 0 and 1"),
        ({"photo_loss": 0.0}, r"clip_drift\.thresholds\.photo_loss: 0\.0 is not above 0"),
        ({"language_lost": 0.8}, "above language_keep"),
    ],
)
def test_thresholds_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Thresholds(**options)
