"""Who holds a folder: what a process writes of itself there, and what another one can tell from it."""

import json
import os
import shlex
import socket
import stat
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

MOST_BYTES = 2**14
"""What is read of such a file: it may be of any size."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder.

    Attributes:
        pid: Its number.
        host: Its computer's name.
        since: When it took the folder, as its computer's clock had it.
        token: Names its claim, so that it cannot be taken for that of another one.
        boot: Which start of which computer it belongs to; empty where the system does not tell.
        space: Which numbering of processes its number is of; each container has its own.
        start: When it was started, as the system counts: numbers are given again. None if unknown.
        folder: Where the folder lay.
        inode: The folder's number in its file system.
        locked: Whether it holds the system's lock on the folder too.
        command: Its command line.
    """

    pid: int
    host: str
    since: str
    token: str = ""
    boot: str = ""
    space: str = ""
    start: int | None = None
    folder: str = ""
    inode: int = 0
    locked: bool = False
    command: str = ""

    @classmethod
    def here(cls, folder: Path, token: str = "", locked: bool = False) -> "Holder":
        """This process.

        Args:
            folder: What it holds.
            token: Its claim's.
            locked: Whether it holds the system's lock.
        """
        boot, space = _machine()
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            token=token,
            boot=boot,
            space=space,
            start=_started(os.getpid()),
            folder=os.path.realpath(folder)[:4000],
            inode=os.stat(folder).st_ino,
            locked=locked,
            command=shlex.join(["lightning-drift", *sys.argv[1:]])[:1000],
        )

    @classmethod
    def read(cls, path: Path) -> "Holder | None":
        """Who a file tells of; it may be anything.

        Returns:
            None if it tells of nobody.

        Raises:
            OSError: It is not there or cannot be read.
        """
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return cls.parse(file.read(MOST_BYTES))

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """Who a file's content tells of; None if nobody."""
        try:
            about = json.loads(content)
            start = about.get("start")
            return cls(
                pid=int(about["pid"]),
                host=str(about["host"])[:100],
                since=str(about.get("since", ""))[:40],
                start=start if isinstance(start, int) else None,
                inode=int(about.get("inode", 0)),
                locked=about.get("locked") is True,
                **{key: _text(about, key) for key in ("token", "boot", "space", "folder", "command")},
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return None

    def content(self) -> bytes:
        """What its file holds."""
        return json.dumps(asdict(self)).encode()

    def words(self) -> str:
        """It in a sentence."""
        return f"process {self.pid} on {self.host}" + (f" since {self.since}" if self.since else "")

    @property
    def is_local(self) -> bool:
        """Whether its number is one of the processes that this process can look at."""
        boot, space = _machine()
        return bool(boot) and (self.boot, self.space) == (boot, space)

    @property
    def on_this_computer(self) -> bool:
        """Whether it runs under this very system, in a container or not."""
        boot, _ = _machine()
        return bool(boot) and self.boot == boot

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended: no process of this computer has its number and its start."""
        if os.name != "posix" or not self.is_local or not 0 < self.pid < 2**31:
            return False
        if not is_there(self.pid):
            return True
        started = _started(self.pid)
        return started is not None and self.start is not None and started != self.start

    def holds_another(self, folder: Path) -> bool:
        """Whether what it holds is known to be another folder, of which this one is a copy.

        A moved folder has its number still, and at its former place a process would write into what lies
        there now: only what differs in both is a copy. Numbers of other computers may differ without one.
        """
        if not self.is_local or not self.folder:
            return False
        try:
            return self.inode != os.stat(folder).st_ino and self.folder != os.path.realpath(folder)[:4000]
        except OSError:
            return False


def is_there(pid: int) -> bool:
    """Whether this computer has a process of a number, be it another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True


def _text(about: Any, key: str) -> str:
    value = about.get(key, "")
    return value if isinstance(value, str) else ""


@cache
def _machine() -> tuple[str, str]:
    """This start of this computer, and this numbering of its processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:
        node = uuid.getnode()
        # A computer without an address of its own makes one up, which has this bit.
        return ("" if sys.platform == "linux" or node >> 40 & 1 else f"{node:x}"), ""


def _started(pid: int) -> int | None:
    """When a process was started, in the system's count since its own start; 0 of one that has ended.

    Returns:
        None where that cannot be told.
    """
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return 0 if state in (b"Z", b"X") else int(rest[18])  # not yet waited for by whoever has started it
    except (OSError, ValueError, IndexError):
        return None
