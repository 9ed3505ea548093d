"""Which mode is taken on a card, and what is said."""

import pytest

from lightning_drift.common.errors import UserError
from lightning_drift.forecast.card import CONTEXT, FRAGMENTS, GIB, MARGIN, Card, affordable, needed
from lightning_drift.forecast.choice import choose_mode
from lightning_drift.forecast.rehearsal import Rehearsal

TENSORS = {"full": 9.2, "split": 7.5, "recompute": 6.4}


def count(mode: str) -> Rehearsal:
    step, clip = {"weights": int(TENSORS[mode] * GIB)}, {"other": 20 * GIB}
    return Rehearsal({"step": step, "grids": {"other": GIB}, "CLIP": clip}, movable={"CLIP"})


def card(free: float) -> Card:
    return Card("a card", free * GIB)


@pytest.mark.parametrize(
    ("free", "mode"), [(24, "full"), (10.2, "full"), (10.1, "split"), (8.3, "recompute")]
)
def test_the_first_that_fits_is_taken(free: float, mode: str) -> None:
    choice = choose_mode([*TENSORS], count, card(free))
    assert choice.mode == mode
    need = (TENSORS[mode] * FRAGMENTS * GIB + CONTEXT + MARGIN) / GIB
    assert choice.reason.startswith(f"{mode} needs about {need:.1f} GiB")
    assert choice.reason.endswith(f"{free:.1f} GiB are free on a card")
    assert list(choice.rehearsals) == [*TENSORS][: [*TENSORS].index(mode) + 1], "nothing else is counted"


def test_where_none_fits_it_says_what_would() -> None:
    with pytest.raises(UserError, match=r"recompute needs about 7\.3 GiB.*6\.0 GiB are free") as refused:
        choose_mode([*TENSORS], count, card(6))
    assert refused.value.option == "model.memory"
    assert "train_text_encoder false" in refused.value.message


def test_what_other_options_exclude_leaves_full() -> None:
    def excluded(mode: str) -> Rehearsal:
        if mode != "full":
            raise UserError(f"{mode} has float16 gradients", "model.memory")
        return count(mode)

    choice = choose_mode([*TENSORS], excluded, card(9))
    assert choice.mode == "full"
    assert "nothing else is possible: split has float16 gradients" in choice.reason


def test_what_is_affordable_is_what_needs_all_that_is_free() -> None:
    assert needed(affordable(8 * GIB)) == pytest.approx(8 * GIB)


def test_seconds_are_calculated_for_known_cards_only() -> None:
    work = [(1e12, 10**9)] * 3
    known = Card("NVIDIA GeForce RTX 3090", GIB).seconds(work)
    assert known == pytest.approx(3 * 1e12 / (71e12 * 0.55))
    assert Card("a card of 8 GiB", GIB).seconds(work) is None
    many = Card("NVIDIA H100 80GB HBM3", GIB).seconds([(0.0, 1)] * 1000)
    assert many == pytest.approx(7e-3), "Python cannot ask faster"
