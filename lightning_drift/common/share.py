"""Shares of a list of work, such as 3/16: the third of sixteen processes that know nothing of each other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.numbers import shown

MOST_SHARES = 100_000
"""Shares at most."""

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One of several shares of a list of work.

    What it holds follows from the list alone, never from what is done already, so that any process can tell
    it by itself: every item is in exactly one share, and the items of a share lie side by side.

    Attributes:
        number: Which share, from 1.
        count: How many there are.
    """

    number: int
    count: int

    @classmethod
    def read(cls, value: object, option: str) -> "Share | None":
        """Read a share as people write it: ``3/16``.

        Args:
            value: What was given; None is no share, which is all of it.
            option: The option's name, for the error message.

        Raises:
            UserError: It is no such text, there is no share of that number, or there are too many shares.

        >>> Share.read("3/16", "data.share")
        Share(number=3, count=16)
        """
        if value is None:
            return None
        match = (
            re.fullmatch(r"\s*([0-9]{1,40})\s*/\s*([0-9]{1,40})\s*", value)
            if isinstance(value, str)
            else None
        )
        if match is None:
            raise UserError(
                f"{shown(value)} is no share; write which one and how many there are, such as 3/16 for the "
                "third of sixteen",
                option,
            )
        number, count = int(match[1]), int(match[2])
        if not 1 <= count <= MOST_SHARES:
            raise UserError(f"{count} shares are out of range; give 1 to {MOST_SHARES}", option)
        if not 1 <= number <= count:
            raise UserError(f"{number}/{count} is out of range; give 1/{count} to {count}/{count}", option)
        return cls(number, count)

    def __str__(self) -> str:
        """As it is written on a command line."""
        return f"{self.number}/{self.count}"

    def of(self, items: Sequence[T], works: Sequence[int]) -> list[T]:
        """The items of this share; none where there are fewer items than shares.

        An item is in the share that the middle of its work falls into, so that a share's work is off from the
        even part by one item's at most.

        Args:
            items: All items, in an order that every process has them in.
            works: The work of each, above 0, in any unit.

        >>> [Share(number, 3).of("abcd", [1, 1, 1, 3]) for number in (1, 2, 3)]
        [['a', 'b'], ['c'], ['d']]
        """
        own, before, total = [], 0, sum(works)
        for item, work in zip(items, works, strict=True):
            if self.count * (2 * before + work) // (2 * total) == self.number - 1:
                own.append(item)
            before += work
        return own

    def tell_empty(self, items: int, what: str) -> None:
        """Say that nothing fell into this share, as there are more shares than there is to share out.

        Args:
            items: How many items there are in all.
            what: What they are, such as ``batches``.
        """
        notice(f"share {self} is empty: there are fewer {what} ({items:,}) than shares")
