"""Files that are complete at their final name: written beside it, flushed to disk, then renamed.

What is being written lies in the target's folder as ``<name>.lightning-drift-<n>.partial``. One writer makes
it, never through a symbolic link, and holds a lock on it. So the next writer can tell what a killed one left,
and deletes that, from what another one is still writing. No folder is listed: it may hold 100,000 pictures.
"""

import errno
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: partial files are private there too, but stay after a kill
    fcntl = None  # type: ignore[assignment]

_LOOKED_AT = 8
"""Partial names of one target that are looked at for what killed writers left."""
_MOST = 10_000
_NAME_BYTES = 255  # what file systems allow
_PRIVATE = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_LOOK = os.O_NOFOLLOW | os.O_NONBLOCK if fcntl else 0


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a private file for writing and rename it to ``path`` once it is on disk.

    Any number of processes may write one name at once: each has a file of its own, and the last to finish
    wins. The private file lies in the target's own folder, so that the rename never crosses file systems. If
    anything is raised (a full disk, an interrupt) it is deleted and the previous file stays. After a kill the
    next write of that name deletes it, so that a checkpoint of several GiB is never left twice.

    Args:
        path: The final name; missing folders are made.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, descriptor = _claim(path, lambda place: os.open(place, _PRIVATE, 0o666))
    try:
        with open(descriptor, "w+b", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        if fcntl is None:  # an open file cannot be renamed there
            os.close(descriptor)
            descriptor = -1
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException:
        _remove(partial, descriptor)
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def private_folder(target: str | Path) -> Iterator[Path]:
    """A new folder beside a target, for what is to be renamed to it; deleted in the end with what it holds.

    As with `atomic_write`, the next one for that target deletes what a killed process left.

    Args:
        target: The final name of the file or folder; missing folders above it are made.

    Raises:
        OSError: The folder cannot be made.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)

    def make(place: Path) -> int:
        os.mkdir(place)
        try:
            return os.open(place, os.O_RDONLY | _LOOK) if fcntl else -1
        except FileNotFoundError as error:  # taken for a leftover before the lock was held
            raise FileExistsError(errno.EEXIST, "made by two", str(place)) from error

    folder, descriptor = _claim(target, make)
    try:
        yield folder
    finally:
        _remove(folder, descriptor)
        if descriptor >= 0:
            os.close(descriptor)


def atomic_link(source: Path, target: Path) -> None:
    """Give a complete file a second name without a copy, or copy it where the file system has no links.

    Raises:
        OSError: The name cannot be given.
    """
    if target.exists() and os.path.samefile(source, target):
        return
    with open(source, "rb") as file:
        if fcntl is not None:
            with suppress(OSError):  # shared: two may link one file; those who look for leftovers pass by
                fcntl.flock(file, fcntl.LOCK_SH)
        for place in _places(target):
            try:
                os.link(source, place)
            except FileExistsError:
                continue
            except OSError:
                break
            try:
                os.replace(place, target)
            except BaseException:
                _remove(place, file.fileno())
                raise
            _sync_folder(target.parent)
            return
        with atomic_write(target) as copy:
            shutil.copyfileobj(file, copy)


def remove_abandoned(target: str | Path) -> None:
    """Delete what killed writers of a name left, before its room on the disk is measured."""
    for place in itertools.islice(_places(Path(target)), _LOOKED_AT):
        _remove_abandoned(place)


def _places(target: Path) -> Iterator[Path]:
    """The names that a target's partial files can have."""
    name = target.name
    if len(os.fsencode(name)) > _NAME_BYTES - 30:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return (target.with_name(f"{name}.lightning-drift-{number}.partial") for number in range(_MOST))


def _claim(target: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make a private file or folder beside a target and lock it; delete what killed writers left.

    Args:
        target: The final name.
        make: Makes it, raises FileExistsError where something is there, and returns a descriptor of it or -1.
    """
    mine: tuple[Path, int] | None = None
    for number, place in enumerate(_places(target)):
        if mine is not None and number >= _LOOKED_AT:
            break
        _remove_abandoned(place)
        if mine is None:
            with suppress(FileExistsError):
                descriptor = make(place)
                if _lock(place, descriptor):
                    mine = place, descriptor
                else:  # taken for a leftover before the lock was held
                    os.close(descriptor)
    if mine is None:
        raise FileExistsError(errno.EEXIST, "too many are writing this file", str(target))
    return mine


def _lock(place: Path, descriptor: int) -> bool:
    """Lock what was just made; whether it still has its name."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: nobody can take one, so nobody deletes it
        return True
    return _is_at(descriptor, place)


def _remove_abandoned(place: Path) -> None:
    """Delete a partial file or folder whose writer has ended without a word: its lock can be taken.

    Whoever holds the lock of what lies at a name is the only one to delete it.
    """
    if fcntl is None:
        return
    try:
        descriptor = os.open(place, os.O_RDWR | _LOOK)
    except IsADirectoryError:
        try:
            descriptor = os.open(place, os.O_RDONLY | _LOOK)
        except OSError:
            return
    except OSError:  # nothing there, or a symbolic link, or not ours
        return
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(place, descriptor)
    except OSError:  # it is being written
        pass
    finally:
        os.close(descriptor)


def _remove(place: Path, descriptor: int) -> None:
    """Delete what a descriptor is of, if it still lies at that name."""
    if descriptor >= 0 and not _is_at(descriptor, place):
        return
    with suppress(OSError):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


def _is_at(descriptor: int, place: Path) -> bool:
    """Whether what a descriptor is of lies at a name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(place, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
