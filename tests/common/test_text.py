"""Names, times and sizes in messages: the examples of the docstrings."""

import doctest

from lightning_drift.common import text


def test_the_docstrings_examples_hold() -> None:
    outcome = doctest.testmod(text)
    assert outcome.attempted == 9
    assert not outcome.failed
