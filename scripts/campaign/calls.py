"""Dying at a call: a process counts what it does to files and kills itself at the n-th."""

import mmap
import os
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGING = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink"}


@dataclass
class Calls:
    """Calls that change files below a folder, counted over a process and those it forks.

    Args:
        counter: Eight shared bytes, the number of calls so far.
        folder: Where calls count.
        last: The call to die at; 0 for none.
        note: Gets the name of that call.
    """

    counter: mmap.mmap
    folder: Path
    last: int = 0
    note: Path | None = None

    @property
    def count(self) -> int:
        """How many there were."""
        return int(struct.unpack("<q", self.counter[:8])[0])


def kill_at_call(calls: Calls) -> None:
    """Count from here on, in this process and those it forks, and end its group by SIGKILL at the call.

    The call itself is not made: a file opened for writing is not there yet, a rename is still to come.
    """
    root = str(calls.folder)
    busy = False

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in CHANGING:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        busy = True
        try:
            where = os.path.abspath(os.fsdecode(path))
            if not where.startswith(root):
                return
            count = calls.count + 1
            calls.counter[:8] = struct.pack("<q", count)
            if count == calls.last:
                if calls.note is not None:
                    calls.note.write_text(f"{event} {os.path.relpath(where, root)}", encoding="utf-8")
                os.killpg(0, signal.SIGKILL)
        finally:
            busy = False

    sys.addaudithook(hear)
