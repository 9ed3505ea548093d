"""As many together as memory holds: a batch that is halved where it does not fit."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from lightning_drift.common.errors import notice
from lightning_drift.common.out_of_memory import exhausted, forget, give_back

T = TypeVar("T")
R = TypeVar("R")


class Batch:
    """How many things are computed together; halved for good where the memory is full.

    Results are the same as at the smaller size from the start: up to rounding those of the larger one, as
    long as each result follows from its own item.

    Args:
        size: How many at most; None for all that are given.
        option: The option that sets the size, for the notice; empty for none.
        things: What they are, for the notice.
        filled: Each attempt computes ``size`` things, however few are left.

    Attributes:
        size: How many are computed together now.
    """

    def __init__(
        self, size: int | None = None, option: str = "", things: str = "pictures", filled: bool = False
    ) -> None:
        self.size = size
        self.option, self.things, self.filled = option, things, filled
        self._refused: tuple[str, int] | None = None  # whose memory, and the largest that did not fit

    def map(
        self,
        items: Sequence[T],
        work: Callable[[Sequence[T]], Sequence[R]],
        advance: Callable[[int], object] = bool,
    ) -> list[R]:
        """The results of all items, in order.

        Args:
            items: What to work on.
            work: Gives the results of some of them, one for each.
            advance: Called with the number of new results after each batch, such as a progress bar's
                ``update``.

        Raises:
            Exception: What ``work`` raises, but for a full memory where it can be tried with fewer.
        """
        results: list[R] = []
        while len(results) < len(items):
            part = items[len(results) : len(results) + (self.size or len(items))]
            made = self._attempt(part, work)
            if made is None:
                give_back()
                continue
            results += made
            advance(len(made))
            self._tell()
        return results

    def _attempt(self, part: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> Sequence[R] | None:
        """The results of a part; None if it does not fit, and fewer are to be tried."""
        tried = (self.size or len(part)) if self.filled else len(part)
        try:
            return work(part)
        except Exception as error:
            if tried == 1 or (full := exhausted(error)) is None:
                raise
            self.size = (tried + 1) // 2
            self._refused = self._refused or (full.memory, tried)
            forget(error)
        return None

    def _tell(self) -> None:
        """Say once at what size it went on."""
        if self._refused is None:
            return
        (memory, refused), self._refused = self._refused, None
        saves = f" ({self.option} {self.size} saves the attempt)" if self.option else ""
        fitted = f"from here on there are {self.size}{saves}"
        notice(f"{memory} was full with {refused} {self.things} at a time; {fitted}")
