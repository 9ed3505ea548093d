"""How a command ends before its work is done: a signal becomes an exception, and a line tells of it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from lightning_drift.common.ranks import first_process, launched

NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP (its terminal was closed)"}
"""What asks a command to end, and how a person is told of it. Windows has no SIGHUP."""

# Some senders (timeout, a shell whose terminal closes) send twice where they mean once.
_ONCE = {"SIGINT": 0.1, "SIGTERM": 1.0, "SIGHUP": 1.0}  # seconds
# A terminal and torchrun both hand Ctrl-C on; and processes of a run hand on what they hear.
_ONCE_OF_SEVERAL = 3.0


class Ended(BaseException):
    """A signal has asked this process to end.

    It is no KeyboardInterrupt, which the Trainer answers by itself: with status 1, and deaf to a second one.

    Attributes:
        number: The signal.
        reached: What was reached and how to go on, as the rest of a sentence; whoever knows fills it in while
            the exception passes.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.reached = ""

    @property
    def status(self) -> int:
        """The exit status by which a shell knows the signal."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {NAMES[signal.Signals(self.number).name]}"


def signal_of(status: int) -> str | None:
    """The name of the signal that has ended a process; None if none has.

    Args:
        status: Its exit status: -n where a signal killed it, 128 + n where it heard one, as in a shell.
    """
    number = -status if status < 0 else status - 128
    return signal.Signals(number).name if number in set(signal.Signals) else None


class _Listener:
    """Hears the signals of a process, from the first line of a command to its last."""

    def __init__(self) -> None:
        self.starting: str | None = None  # what to say of an end where nothing is written yet
        self.heard: int | None = None
        self.at = 0.0
        self.holds = 0
        self.pending = False
        self.at_once: list[Callable[[], object]] = []
        self.numbers: list[int] = []

    def listen(self) -> None:
        """Take the signals, from whoever has taken them meanwhile."""
        for number in self.numbers:
            signal.signal(number, self.hear)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: the first one ends the command in order, a second one at once."""
        now = time.monotonic()
        if self.heard is not None:
            once = _ONCE[signal.Signals(number).name] if launched() is None else _ONCE_OF_SEVERAL
            if now - self.at >= once:
                self._die(number)
            return
        self.heard, self.at = number, now
        if self.starting is not None:
            # Nothing to undo; and an exception amid the imports of a library may be taken for a missing one.
            _write(f"{Ended(number)} {self.starting}")
            os._exit(128 + number)
        self.end()

    def end(self) -> None:
        """Raise what was heard, or leave it to the end of what must not be broken off."""
        self.pending = bool(self.holds)
        if not self.pending:
            assert self.heard is not None
            raise Ended(self.heard)

    def _die(self, number: int) -> None:
        for action in self.at_once:
            action()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        os._exit(128 + number)  # the first process of a container has no default action


_listener: _Listener | None = None


@contextmanager
def listening(starting: str, own_process: bool) -> Iterator[None]:
    """Turn the signals in NAMES into `Ended`, in the main thread of a process.

    One that is ignored (``nohup``, a shell's background) stays ignored, but for SIGTERM.

    Args:
        starting: What to say if the command is ended before `begin`, where it ends on the spot.
        own_process: The process is the command's own: it may be ended on the spot, and once the command is
            done a signal kills it without a word, for all is said. Else the former handlers are put back.
    """
    global _listener
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = _Listener()
    listener.starting = starting if own_process else None
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    heard = [n for n in numbers if n == signal.SIGTERM or before[n] is not signal.SIG_IGN]
    listener.numbers = heard
    before_listener, before_hook = _listener, sys.unraisablehook

    def again(unraisable: Any) -> None:
        """An exception that a destructor swallowed comes back a moment later."""
        if isinstance(unraisable.exc_value, Ended) and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        else:
            before_hook(unraisable)

    _listener = listener
    sys.unraisablehook = again
    if hasattr(signal, "SIGALRM"):
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda *_: listener.end())
    listener.listen()
    try:
        yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            if own_process and number in heard:
                signal.signal(number, signal.SIG_DFL)
            elif handler is not None:
                signal.signal(number, handler)
        _listener, sys.unraisablehook = before_listener, before_hook


def begin() -> None:
    """From here on there may be something to undo or to tell: a signal raises `Ended` where it is heard."""
    if _listener is not None:
        _listener.starting = None


def listen_again() -> None:
    """Take back the signals that a library has taken in the meantime."""
    if _listener is not None:
        _listener.listen()


def hear_too(number: int) -> None:
    """From another thread: end this process in order, as if it had heard a signal; not if it has."""
    if _listener is not None and _listener.heard is None and number in _listener.numbers:
        os.kill(os.getpid(), number)


@contextmanager
def held() -> Iterator[None]:
    """What is done within is done to its end; a signal that comes meanwhile is raised afterwards.

    For what a broken call would leave in doubt (a save and the note that it was made) or cannot pass on an
    exception (C++). A second signal ends the process even so.
    """
    if _listener is None:
        yield
        return
    listener = _listener
    listener.holds += 1
    try:
        yield
    finally:
        listener.holds -= 1
        if listener.pending and not listener.holds:
            listener.end()


def waits() -> bool:
    """Whether a signal was heard that `held` keeps back: what is done within may end early and in order."""
    return _listener is not None and _listener.pending


@contextmanager
def before_dying(action: Callable[[], object]) -> Iterator[None]:
    """Within, a second signal first does this: quick, and without an exception."""
    if _listener is None:
        yield
        return
    _listener.at_once.append(action)
    try:
        yield
    finally:
        _listener.at_once.remove(action)


def _write(line: str) -> None:
    """Say a line from within a signal's handler, where a stream may be in use."""
    if first_process():
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"lightning-drift: {line}\n".encode(errors="backslashreplace"))
