"""How a command's own process starts and ends without losing seconds."""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

_NO_COMPILER = "TORCHDYNAMO_DISABLE"


@contextmanager
def importing() -> Iterator[None]:
    """Import large packages for a second or two less.

    They make half a million objects of which none is garbage, so none is looked for. And bitsandbytes wraps
    four functions that no fit uses with ``torch.compile``, for which PyTorch imports its compiler.
    """
    collects, asked = gc.isenabled(), os.environ.get(_NO_COMPILER)
    gc.disable()
    os.environ[_NO_COMPILER] = "1"
    try:
        yield
    finally:
        if asked is None:
            del os.environ[_NO_COMPILER]
        else:
            os.environ[_NO_COMPILER] = asked
        if collects:
            gc.enable()


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run a command as all that this process does, and end it without taking every object down one by one.

    What is registered to be done at the end is done (temporary folders, other processes).

    Args:
        command: Returns the exit status, or raises SystemExit.
    """
    status: object = 1  # of an exception, which Python prints

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or none
                stream.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))

    atexit.register(leave)  # the first to register is the last to be called
    try:
        status = command()
    except SystemExit as stop:
        status = stop.code
        raise
    sys.exit(status)
