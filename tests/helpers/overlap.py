"""Two processes that write one file at the same time."""

import os
import traceback
from collections.abc import Callable

import pytest


def write_meanwhile(monkeypatch: pytest.MonkeyPatch, write: Callable[[], object]) -> None:
    """Let another process do a whole ``write`` while this one's next file is written and not yet renamed."""
    fsync = os.fsync

    def interrupted(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                write()
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
