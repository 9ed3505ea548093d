"""A call on hostile input: a value or a sentence, in bounded time and memory."""

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from lightning_drift.common.errors import UserError

T = TypeVar("T")
SECONDS = 20
MEMORY = 2**30
LONGEST = 2000
"""Characters of a sentence, paths included."""


class EndlessError(BaseException):
    """Not an Exception, so that no handler of one takes it for a damaged file."""


@contextmanager
def bounded(seconds: int = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Let the body take so many seconds, and so many bytes of address space more than there are now."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise EndlessError(f"it has not ended after {seconds} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, over)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def value_or_sentence(call: Callable[[], T], *refusals: type[Exception]) -> T | None:
    """What the call returns; None if it refuses its input in a sentence.

    Args:
        call: What reads the input.
        refusals: Further exceptions whose text is a sentence.
    """
    try:
        with bounded():
            return call()
    except (UserError, *refusals) as error:
        sentence = str(error)
    assert sentence.strip()
    assert len(sentence) <= LONGEST
    return None
