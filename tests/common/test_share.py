"""Shares of a list of work: how they are written, and that together they are the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_drift.common.errors import UserError
from lightning_drift.common.share import Share


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("0/4", r"data\.share: 0/4 is out of range; give 1/4 to 4/4"),
        ("5/4", r"data\.share: 5/4 is out of range; give 1/4 to 4/4"),
        ("1/0", r"data\.share: 0 shares are out of range; give 1 to 100000"),
        ("1/100001", r"data\.share: 100001 shares are out of range"),
        ("1/" + "9" * 40, r"data\.share: 9+ shares are out of range"),
        ("1/" + "9" * 5000, r"data\.share: '1/9+… \(a str\) is no share"),
        ("3", r"data\.share: '3' is no share; write which one and how many there are, such as 3/16"),
        ("a/b", "'a/b' is no share"),
        ("-1/4", "'-1/4' is no share"),
        ("1/2/3", "'1/2/3' is no share"),
        ("", "'' is no share"),
        ("１/２", "is no share"),
        (0.1875, r"0\.1875 is no share"),
    ],
)
def test_what_is_no_share_is_refused_in_a_sentence(value: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Share.read(value, "data.share")


def test_a_share_is_read_as_it_is_written() -> None:
    assert Share.read(None, "x") is None
    assert str(Share.read(" 3 / 16 ", "x")) == "3/16"


@given(st.lists(st.integers(1, 10**9), max_size=60), st.integers(1, 80))
def test_together_shares_are_the_whole_in_order_and_even_to_one_item(works: list[int], count: int) -> None:
    items = list(range(len(works)))
    shares = [Share(number, count).of(items, works) for number in range(1, count + 1)]
    assert [item for share in shares for item in share] == items
    for share in shares:
        taken = sum(works[item] for item in share)
        assert abs(taken - sum(works) / count) <= max(works, default=0) * (1 + 1e-9)
