"""Weights in two halves come back, and modules that keep them so behave as before."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_drift.common.errors import UserError
from lightning_drift.weights.split_weights import (
    EXACT_FROM,
    LARGEST,
    full_weight,
    is_split,
    join,
    set_weight_,
    split,
    split_parameters_,
)

weights = st.lists(st.floats(-LARGEST, LARGEST, width=32, allow_nan=False), min_size=1, max_size=50)


@given(weights)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_halves_give_a_weight_back(numbers: list[float]) -> None:
    weight = torch.tensor(numbers, dtype=torch.float32)
    half, remainder = split(weight)
    assert torch.equal(half, weight.half())
    assert remainder.dtype == torch.int16
    error = (join(half, remainder) - weight).abs()
    assert error.max() <= 2.0**-40
    assert not error[weight.abs() >= EXACT_FROM].any()


@pytest.mark.parametrize("exponent", [-24, -17, -16, -15, -14, -13, -5, 0, 14, 15])
def test_every_significand_of_an_exponent_comes_back(exponent: int) -> None:
    bits = np.arange(2**23, dtype=np.int32) | ((exponent + 127) << 23)
    weight = torch.from_numpy(bits.view(np.float32))  # midpoints between float16 numbers included
    weight = weight[weight <= LARGEST]
    for signed in (weight, -weight):
        half, remainder = split(signed)
        error = (join(half, remainder) - signed).abs().max().item()
        assert error == 0 if exponent >= -16 else error <= 2.0**-40


@given(weights, st.floats(1e-9, 1e-5))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_an_update_far_below_float16_moves_a_weight(numbers: list[float], change: float) -> None:
    weight = torch.tensor([n for n in numbers if abs(n) < 0.01] or [0.003], dtype=torch.float32)
    moved = weight + change
    back = join(*split(moved))
    assert torch.allclose(back, moved, rtol=0, atol=1e-12)
    assert (back[moved != weight] != join(*split(weight))[moved != weight]).all()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(64, 64, 3), nn.GroupNorm(4, 64), nn.Conv2d(64, 4, 1))


def test_a_modules_state_dict_holds_float32_whether_split_or_not() -> None:
    whole, halves = network(), network()
    split_parameters_(halves)
    assert [is_split(p) for p in halves.parameters()] == [True, False, False, False, False, False]
    assert halves[0].weight.dtype == torch.float16
    state = halves.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=2.0**-40)
    other = {name: tensor * 1.0001 for name, tensor in whole.state_dict().items()}
    halves.load_state_dict(other)
    for name, tensor in halves.state_dict().items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=2.0**-40)


def test_a_weight_is_set_and_read_in_float32() -> None:
    module = network()
    split_parameters_(module)
    value = torch.full_like(module[0].weight, 0.1, dtype=torch.float32) + 2e-6
    set_weight_(module[0].weight, value)
    assert torch.equal(full_weight(module[0].weight), value)
    assert torch.equal(module[0].weight.detach(), value.half())


def test_a_weight_that_float16_does_not_hold_is_named() -> None:
    module = network()
    module[0].weight.data[0, 0, 0, 0] = 1e5
    with pytest.raises(UserError, match=r"0\.weight holds a number above 65504"):
        split_parameters_(module)
