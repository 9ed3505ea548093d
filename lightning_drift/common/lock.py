"""A folder that one process writes at a time."""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

from lightning_drift.common.claim import EXPIRY, INTERVAL, Claim, standing
from lightning_drift.common.claim_files import CLAIM
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.holder import MOST_BYTES, Holder, is_there

LOCK_FILE = ".lock"
"""In a locked folder: who holds the lock, and since when. What counts is the system's lock on the file."""


OWN = (LOCK_FILE, CLAIM)
"""What a locked folder holds for its lock alone."""

# What says that a file system cannot do it, rather than that something is wrong with this folder.
_UNABLE = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EXDEV}


class FolderLock:
    """The right to write into a folder, which one process has at a time.

    Within one computer it is the system's own lock (``flock``), which ends with its process, whatever ends
    that. Among the computers that share the folder it is a claim (`Claim`), which its process renews. Where
    one of the two is not to be had, the other holds; where neither is, it says so once and holds nothing.

    Args:
        folder: The folder; it is there.
        what: What is locked, for the message, such as ``run``.
        interval: Seconds between two renewals of the claim.
        expiry: Seconds without one after which another process may take it over.

    Raises:
        UserError: Another process holds it; the message says which, and since when.
        OSError: The folder cannot be written to.
    """

    def __init__(self, folder: Path, what: str, interval: float = INTERVAL, expiry: float = EXPIRY) -> None:
        self._path = folder / LOCK_FILE
        self._pid = os.getpid()
        self._claim: Claim | None = None
        self._file: IO[bytes] | None = None
        self._file, unlocked = self._locked(folder, what)
        try:
            self._claim = Claim(folder, what, self._file is not None, interval, expiry)
        except OSError as error:
            if error.errno not in _UNABLE:
                self._close(unlink=False)
                raise
            if unlocked:
                notice(f"{folder} cannot be locked ({unlocked}): let no second process write into it")
        except UserError:
            self._close(unlink=False)
            raise
        if self._file is not None:
            self._file.truncate()
            self._file.write(Holder.here(folder).content())
            self._file.flush()

    def _locked(self, folder: Path, what: str) -> tuple[IO[bytes] | None, str]:
        """The file with the system's lock on it; without such locks, why there is none.

        Raises:
            UserError: Another process of this computer holds it.
        """
        while True:
            file = _open(self._path)
            try:
                _take(file)
            except BlockingIOError:
                holder = Holder.parse(file.read(MOST_BYTES))
                file.close()
                who = holder.words() if holder is not None else "another process"
                raise UserError(
                    f"the {what} {folder} is being written by {who}; wait for it or stop it"
                ) from None
            except OSError as error:
                self._file = file
                self._close(unlink=False)
                return None, str(error.strerror)
            if _lies_at(file, self._path):  # else its last holder has removed it meanwhile
                return file, ""
            file.close()

    def _close(self, unlink: bool) -> None:
        """Let go of the system's lock.

        Args:
            unlink: Its file goes, whatever it tells.
        """
        if self._file is not None:
            # An empty one was made here; one that tells of another computer's process stays that one's.
            if unlink or not os.fstat(self._file.fileno()).st_size:
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def check(self) -> None:
        """Whether the folder is this process's still; quick while it is, so to be asked before each write.

        Raises:
            UserError: Another process has taken it over, as this one was not heard of for too long, or may do
                so soon.
        """
        if self._claim is not None:
            self._claim.check()

    @property
    def lost(self) -> bool:
        """Whether another process is known to have taken it over."""
        return self._claim is not None and self._claim.lost

    def release(self, leave: bool = True) -> None:
        """Let another process have it; in a process that was forked from its holder this does nothing.

        Args:
            leave: The folder stays, and its claim in it, free. Else all of the lock goes.
        """
        if os.getpid() != self._pid:
            return
        self._close(unlink=not self.lost)  # before the claim: then it may be another's
        if self._claim is not None:
            self._claim.release(leave)


def is_held(folder: Path) -> bool | None:
    """Whether a process writes into a folder, told without touching the lock.

    To try the lock would be to hold it for a moment, in which the process that may have it would be refused.

    Returns:
        None where it cannot be told: nothing claims it, and its lock is of another computer or names no
        process.
    """
    held, _ = standing(folder)
    return _is_locked(folder) if held is None else held


def holder(folder: Path) -> str | None:
    """Who writes into a folder, in words, told without changing anything there.

    Returns:
        None if nobody does who is known to live.
    """
    held, words = standing(folder)
    if held is None and _is_locked(folder):
        with suppress(OSError):
            about = Holder.read(folder / LOCK_FILE)
            words = about.words() if about is not None else ""
    return words or None


def _is_locked(folder: Path) -> bool | None:
    """What the lock's file tells where there is no claim."""
    path = folder / LOCK_FILE
    try:
        about = Holder.read(path)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    if about is None or about.host != socket.gethostname() or os.name != "posix" or not 0 < about.pid < 2**31:
        return None
    return is_there(about.pid) and _has_open(about.pid, path)


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
