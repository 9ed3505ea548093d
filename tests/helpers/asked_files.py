"""Which files Python code opens and which folders it lists, told by the interpreter's own audit events."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EVENTS = ("open", "os.scandir", "os.listdir")
_watched: list[list[Path]] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watched and event in _EVENTS and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
        _watched[-1].append(Path(os.fsdecode(arguments[0])))


@contextmanager
def asked_files() -> Iterator[list[Path]]:
    """The paths that are opened or listed meanwhile; the interpreter keeps its hook for good."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _watched.append([])
    try:
        yield _watched[-1]
    finally:
        _watched.pop()
