"""How long ago something was, whatever slept meanwhile."""

import time


class Moment:
    """When something was done, by two clocks: one that nobody sets, and one that goes on in any sleep.

    A computer's sleep counts on Linux only by CLOCK_BOOTTIME, and a paused virtual machine's by the time that
    it is set to afterwards.
    """

    def __init__(self) -> None:
        self._steady, self._wall = _steady(), time.time()

    def seconds(self) -> float:
        """How long ago it was, by the clock that says more."""
        return max(_steady() - self._steady, abs(time.time() - self._wall))


def _steady() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if clock is None else time.clock_gettime(clock)
