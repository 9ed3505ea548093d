"""The instant at which a file appears, from Linux's inotify."""

import ctypes
import os
import select
import struct
from pathlib import Path

_CREATE, _MOVED_TO, _IS_DIR = 0x100, 0x80, 0x40000000
_HEAD = struct.Struct("iIII")


class Watch:
    """Says what appears below a folder: files, partial files and folders, in the order of time.

    Use it as a context manager.
    """

    def __init__(self, folder: Path) -> None:
        self._system = ctypes.CDLL(None, use_errno=True)
        self._fd = self._system.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1 failed")
        self._folders: dict[int, Path] = {}
        self._add(folder)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def new(self, seconds: float) -> list[Path]:
        """What has appeared; waits so long for something."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return []
        data, found, at = os.read(self._fd, 2**16), [], 0
        while at < len(data):
            watch, mask, _, length = _HEAD.unpack_from(data, at)
            name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0")
            at += _HEAD.size + length
            if watch not in self._folders:
                continue
            path = self._folders[watch] / os.fsdecode(name)
            found.append(path)
            if mask & _IS_DIR:
                found += self._add(path)
        return found

    def _add(self, folder: Path) -> list[Path]:
        """Watch a folder and those in it, and find what is there already."""
        watch = self._system.inotify_add_watch(self._fd, os.fsencode(folder), _CREATE | _MOVED_TO)
        if watch < 0:  # gone again
            return []
        self._folders[watch] = folder
        found = []
        for path in list(folder.iterdir()) if folder.is_dir() else []:
            found.append(path)
            if path.is_dir() and not path.is_symlink():
                found += self._add(path)
        return found
