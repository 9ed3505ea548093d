"""Something that is asked for often and takes long, done as seldom as keeps it a small part of the time."""

import time
from collections.abc import Callable

SHARE = 0.05
"""The largest part of the time that it may take."""


class Seldom:
    """Does it when it is asked for, the first time at once, then so that it takes 5 % of the time.

    Args:
        action: What to do.
        clock: Seconds that pass.
    """

    def __init__(self, action: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._action, self._clock = action, clock
        self._wanted = False
        self._next = -float("inf")

    def ask(self) -> None:
        """Do it now, or at a later `catch_up`."""
        self._wanted = True
        self.catch_up()

    def catch_up(self) -> None:
        """Do what was asked for, if it is time."""
        begin = self._clock()
        if not self._wanted or begin < self._next:
            return
        self._wanted = False
        self._action()
        end = self._clock()
        self._next = end + (end - begin) * (1 / SHARE - 1)
