"""Files that are complete at their final name: written beside it, flushed to disk, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | Path, shared: bool = False) -> Iterator[BinaryIO]:
    """Open ``<path>.partial`` for writing and rename it to ``path`` once it is on disk.

    The partial file lies in the target's own folder, so that the rename never crosses file systems. If
    anything is raised (a full disk, an interrupt) it is deleted and the previous file stays. After a kill the
    next write of that name takes its place, so that a checkpoint of several GiB is never left twice.

    Args:
        path: The final name; missing folders are made.
        shared: Several processes may write this name at once: each has a partial file of its own, with its
            process number in the name, and the last to finish wins. What a killed one leaves stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
