"""Which learning rates are proposed, on made-up corridors: positions that grow with the dose, to a border."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lightning_drift.corridor.searcher import Known, MilestoneVerdict, RateSearch, candidates
from lightning_drift.fit.runs import rate_name

LOW, HIGH, STEPS = 1e-6, 2e-5, (800, 1200, 1600)
Look = Callable[[float, int], MilestoneVerdict]


@dataclass
class Corridor:
    """A synthetic subject: where its border is, how steep it is, and how far luck moves a verdict."""

    border: float
    exponent: float = 0.75
    slope: float = 30.0
    clear_up_to: float = 47.0
    luck: random.Random | None = None

    def __call__(self, rate: float, step: int) -> MilestoneVerdict:
        position = 50 + self.slope * (math.log(rate) + self.exponent * math.log(step) - self.border)
        position = min(max(position + (self.luck.gauss(0, 1) if self.luck else 0.0), 0.0), 100.0)
        if position < 25:
            return MilestoneVerdict("under-drifted", None, position)
        if position < 50:
            return MilestoneVerdict(
                "dreaming", "forgetting" if position > self.clear_up_to else None, position
            )
        return MilestoneVerdict("forgetting" if position < 75 else "cooked", None, position)


def random_corridor(source: random.Random) -> Corridor:
    exponent = source.uniform(0.6, 0.9)
    first, last = (math.log(rate) + exponent * math.log(step) for rate, step in ((LOW, 800), (HIGH, 1600)))
    border = source.uniform(first + 0.3, last - 0.3)
    return Corridor(border, exponent, source.uniform(15, 45), source.uniform(44, 49), source)


def fitted(rate: float, look: Look) -> Known:
    known = Known()
    for step in STEPS:
        known.readings[step] = look(rate, step)
        if known.readings[step].hopeless:
            break
    return known


def searched(look: Look, most: int, together: int = 1) -> dict[float, Known]:
    """The fits of a search with so many at once; proposals are in the range, and none comes twice."""
    search, fits = RateSearch(LOW, HIGH, STEPS), dict[float, Known]()
    while len(fits) < most:
        begun: list[float] = []
        for _ in range(min(together, most - len(fits))):
            rate = search.propose(fits, together)
            if rate is None:
                break
            assert LOW <= rate <= HIGH
            assert rate_name(rate) not in map(rate_name, fits)
            assert len(rate_name(rate)) <= len("lr1.2e-6")
            fits[rate] = Known(runs=True)
            begun.append(rate)
        if not begun:
            break
        fits |= {rate: fitted(rate, look) for rate in begun}
    return fits


def farthest(fits: dict[float, Known]) -> float:
    """The position of the farthest checkpoint that clearly dreams; 0 if none does."""
    all_readings = [reading for fit in fits.values() for reading in fit.readings.values()]
    return max((reading.position or 0.0 for reading in all_readings if reading.clear), default=0.0)


def grid(look: Look, count: int) -> dict[float, Known]:
    """As many rates at even distances, both ends left out by half a distance."""
    rates = [LOW * (HIGH / LOW) ** ((index + 0.5) / count) for index in range(count)]
    return {rate: fitted(rate, look) for rate in rates}


@pytest.mark.parametrize("together", [1, 2])
def test_it_comes_nearer_to_the_border_than_a_grid_of_the_same_number(together: int) -> None:
    source = random.Random(7)
    found, by_grid = [], []
    for _ in range(40):
        corridor = random_corridor(source)
        found.append(farthest(searched(corridor, 5, together)))
        by_grid.append(farthest(grid(corridor, 5)))
    assert sum(found) / len(found) > sum(by_grid) / len(by_grid) + 2
    assert sum(ours > theirs for ours, theirs in zip(found, by_grid, strict=True)) > 25
    assert all(found)  # it always finds one that dreams


def test_it_finds_the_border_of_a_corridor_without_luck() -> None:
    for border in (-8.1, -7.5, -6.9, -6.3, -5.7):
        fits = searched(Corridor(border), 6)
        assert 43 < farthest(fits) <= 47


def test_the_first_rates_are_the_middle_or_divide_the_range() -> None:
    search = RateSearch(1e-6, 1e-4, STEPS)
    assert search.propose({}) == 1e-5
    first = search.propose({}, together=3)
    assert first is not None
    second = search.propose({first: Known(runs=True)}, together=3)
    assert second is not None
    third = search.propose({first: Known(runs=True), second: Known(runs=True)}, together=3)
    assert (first, second, third) == (3.2e-6, 1e-5, 3.2e-5)


def test_where_all_have_gone_past_it_looks_lower_and_ends() -> None:
    fits = searched(lambda rate, step: MilestoneVerdict("cooked", None, 99.0), 20)
    assert min(fits) == LOW
    assert len(fits) < 12
    rates = list(fits)
    assert rates[1] < rates[0]


def test_where_none_has_drifted_it_looks_higher_and_ends() -> None:
    fits = searched(lambda rate, step: MilestoneVerdict("under-drifted", None, 2.0), 20)
    assert max(fits) > 0.9 * HIGH
    assert len(fits) < 12
    rates = list(fits)
    assert rates[1] > rates[0]


def test_broken_models_have_no_position_and_are_beyond() -> None:
    fits = searched(
        lambda rate, step: (
            MilestoneVerdict("broken") if rate > 4e-6 else MilestoneVerdict("dreaming", None, 40.0)
        ),
        6,
    )
    assert 3.5e-6 <= max(rate for rate, fit in fits.items() if fit.readings[800].clear) <= 4e-6


def test_fits_that_fail_are_not_tried_again_nor_their_neighbours_at_once() -> None:
    search = RateSearch(LOW, HIGH, STEPS)
    fits = {4.5e-6: Known(failed=True)}
    rate = search.propose(fits)
    assert rate is not None
    assert abs(math.log(rate / 4.5e-6)) > 0.2
    fits[rate] = Known(failed=True)
    fits |= {1e-6: Known(failed=True), 2e-5: Known(failed=True)}
    assert search.propose(fits) not in {None, *fits}


def test_a_checkpoint_under_way_is_not_doubled() -> None:
    search = RateSearch(LOW, HIGH, STEPS)
    known = {2e-6: fitted(2e-6, Corridor(-6.9)), 9e-6: fitted(9e-6, Corridor(-6.9))}
    alone = search.propose(known)
    assert alone is not None
    beside = search.propose({**known, alone: Known(runs=True)})
    assert beside is not None
    assert beside != alone


def test_every_rate_of_a_narrow_range_is_tried_at_most_once() -> None:
    assert candidates(1.21e-6, 1.24e-6) == [1.21e-6, 1.24e-6]
    search = RateSearch(1.21e-6, 1.24e-6, STEPS)
    assert search.propose({1.21e-6: Known(failed=True), 1.24e-6: Known(failed=True)}) is None


def test_rates_beside_the_range_and_many_milestones_tell_as_much() -> None:
    search = RateSearch(LOW, HIGH, range(10, 2010, 10))
    corridor = Corridor(-6.9)
    outside = {step: corridor(5e-7, step) for step in range(10, 2010, 10)}
    rate = search.propose({5e-7: Known(outside), 1e-4: Known({10: MilestoneVerdict("cooked", None, 95.0)})})
    assert rate is not None
    assert LOW <= rate <= HIGH
