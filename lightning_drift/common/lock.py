"""A folder that one process writes at a time."""

import json
import os
import shlex
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from lightning_drift.common.errors import UserError, notice

LOCK_FILE = ".lock"
"""In a locked folder: who holds the lock, and since when. What counts is the system's lock on the file."""


class FolderLock:
    """The right to write into a folder, which one process has at a time.

    It is the system's own lock (``flock``), so it ends with its process, whatever ends that. On a file system
    without such locks it says so once and holds nothing.

    Args:
        folder: The folder; it is there.
        what: What is locked, for the message, such as ``run``.

    Raises:
        UserError: Another process holds it; the message says which, and since when.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._path = folder / LOCK_FILE
        self._file: IO[bytes] | None = None
        while self._file is None:
            file = _open(self._path)
            try:
                _take(file)
            except BlockingIOError:
                holder = file.read(4096)
                file.close()
                raise UserError(
                    f"the {what} {folder} is being written by {_shown(holder)}; wait for it or stop it"
                ) from None
            except OSError as error:
                file.close()
                notice(f"{folder} cannot be locked ({error.strerror}): let no second process write into it")
                return
            if _lies_at(file, self._path):  # else its last holder has removed it meanwhile
                self._file = file
            else:
                file.close()
        self._file.truncate()
        self._file.write(json.dumps(_this_process()).encode())
        self._file.flush()

    def release(self) -> None:
        """Let another process have it; the file goes, while no one else can hold it."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def is_held(folder: Path) -> bool | None:
    """Whether a process of this computer writes into a folder, told without touching the lock.

    To try the lock would be to hold it for a moment, in which the process that may have it would be refused.

    Returns:
        None where it cannot be told: the lock is of another computer, or it names no process.
    """
    path = folder / LOCK_FILE
    try:
        with open(
            os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        ) as file:
            about = json.loads(file.read(4096))
        pid, host = int(about["pid"]), about["host"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    if host != socket.gethostname() or os.name != "posix" or not 0 < pid < 2**31:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return _has_open(pid, path)


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open, as numbers of ended processes are given again; True if unknown."""
    try:
        here = os.stat(path)
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                with suppress(OSError):  # closed meanwhile
                    if os.path.samestat(os.stat(descriptor.path), here):
                        return True
    except OSError:  # not Linux, or no leave to look
        return True
    return False


def _open(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    return os.fdopen(descriptor, "r+b")


def _lies_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _take(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError as error:  # not a POSIX system
        raise OSError(0, "this system has no such locks") from error
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(["lightning-drift", *sys.argv[1:]])[:1000],
    }


def _shown(holder: bytes) -> str:
    """A lock's holder in words; its file may be of any content."""
    try:
        about = json.loads(holder)
        return f"process {int(about['pid'])} on {str(about['host'])[:100]} since {str(about['since'])[:40]}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "another process"
