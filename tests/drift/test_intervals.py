import math

import pytest
import torch

from lightning_drift.drift.measures.intervals import Interval, SeedDraws, against_base

KEYS = [("sea", 0), ("sea", 1), ("sea", 2), ("tree", 0), ("tree", 5)]


def test_every_prompt_weighs_the_same() -> None:
    draws = SeedDraws(KEYS)
    assert draws.weights.shape == (201, 5)
    torch.testing.assert_close(draws.weights[0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.5, 0.5]).double())
    assert draws.mean(torch.tensor([3.0, 0, 0, 2, 0]))[0].item() == pytest.approx(1.0)
    torch.testing.assert_close(draws.mean(torch.ones(5, 2)), torch.ones(201, 2).double())


def test_a_seed_has_one_weight_under_every_prompt() -> None:
    draws = SeedDraws([("a", 0), ("a", 1), ("b", 1), ("b", 0)])
    assert torch.equal(draws.weights[:, 0], draws.weights[:, 3])
    part, index = SeedDraws(KEYS).only(["tree"])
    assert index.tolist() == [3, 4]
    torch.testing.assert_close(part.weights.sum(1), torch.ones(201).double())
    assert part.prompts == ["tree"]


def test_draws_depend_on_seeds_and_not_on_the_order_of_keys() -> None:
    draws, turned = SeedDraws(KEYS), SeedDraws(KEYS[::-1])
    torch.testing.assert_close(draws.weights, turned.weights.flip(1))
    assert torch.equal(draws.weights, SeedDraws(KEYS).weights)
    assert not torch.equal(draws.weights[1:], SeedDraws(KEYS, seed=1).weights[1:])


def test_means_over_pairs() -> None:
    draws = SeedDraws(KEYS)
    index = torch.arange(5.0)
    distances = (index[:, None] - index[None]).abs()
    # sea: pairs at distances 1, 1, 2; tree: one pair at 1
    assert draws.pair_mean(distances)[0].item() == pytest.approx((4 / 3 + 1) / 2)
    assert torch.allclose(draws.pair_mean(torch.ones(5, 5)), torch.ones(201).double())
    # seed 0 alone is shared, its pictures are 3 apart; without a shared seed all pairs of prompts count
    assert draws.prompt_pair_mean(distances).allclose(torch.tensor(3.0).double())
    apart = SeedDraws([("a", 0), ("a", 1), ("b", 2), ("b", 3)])
    assert apart.prompt_pair_mean(distances[:4, :4])[0].item() == pytest.approx(2.0)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    """With many seeds the bootstrap of a mean is known: value +- 1.645 standard errors."""
    count = 400
    draws = SeedDraws([("a", seed) for seed in range(count)], draws=4000)
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)).double()
    found = draws.interval(draws.mean(values))
    error = float(values.std()) / math.sqrt(count)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(float(values.mean()) - 1.645 * error, abs=0.15 * error)
    assert found.high == pytest.approx(float(values.mean()) + 1.645 * error, abs=0.15 * error)


def test_intervals_of_four_seeds_are_wide_enough() -> None:
    """Nominally 90 %; the plain percentile bootstrap of four values covers the truth in some 75 %."""
    draws = SeedDraws([("a", seed) for seed in range(4)])
    samples = torch.randn((1000, 4), generator=torch.Generator().manual_seed(0)).double()
    covered = 0
    for sample in samples:
        found = draws.interval(draws.mean(sample))
        covered += found.low <= 0 <= found.high
    assert 0.78 < covered / 1000 < 0.95


def test_intervals_hold_their_value_and_bounds() -> None:
    draws = SeedDraws([("a", 0), ("a", 1)])
    same = draws.interval(draws.mean(torch.tensor([0.3, 0.3])))
    assert same == Interval(pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3))
    found = draws.interval(draws.mean(torch.tensor([0.0, 1.0])), at_least=0.0, at_most=1.0)
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)
    biased = torch.cat([torch.tensor([2.0]), torch.zeros(200)])
    assert draws.interval(biased).high == 2.0


def test_ratios_are_finite_and_one_for_the_base() -> None:
    for base in (0.0, -0.3, 1e-9, 0.5):
        same = torch.tensor(base)
        assert against_base(same, same, 0.01).item() == 1.0
        assert math.isfinite(against_base(same + 1, same, 0.01).item())


def test_prompts_with_one_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="'tree' has one seed"):
        SeedDraws(KEYS[:4])
    with pytest.raises(ValueError, match="twice"):
        SeedDraws([*KEYS, KEYS[0]])
