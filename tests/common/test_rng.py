"""Randomness by address."""

import torch

from lightning_drift.common.rng import generator


def draw(*address: object) -> torch.Tensor:
    return torch.rand(4, generator=generator(*address))  # type: ignore[arg-type]


def test_an_address_always_gives_the_same_stream() -> None:
    assert torch.equal(draw(0, "noise", 5), draw(0, "noise", 5))
    # A fixed value: another release or machine must draw the same, or resumed runs would change.
    expected = torch.tensor([0.7729, 0.6285, 0.2245, 0.7273])
    torch.testing.assert_close(draw(1337, "sample", 3), expected, atol=1e-4, rtol=0)


def test_every_part_of_the_address_counts() -> None:
    addresses = [
        (0, "a", 1),
        (0, "a", 2),
        (1, "a", 1),
        (0, "b", 1),
        (0, "a", "1"),
        (0, "a1"),
        (0,),
        (-1, "a", 1),
    ]
    streams = [tuple(draw(*address).tolist()) for address in addresses]
    assert len(set(streams)) == len(addresses)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw(3, "x")
    assert torch.equal(torch.get_rng_state(), before)
