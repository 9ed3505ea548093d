"""Where the finished sweeps of a log folder lie, told by their indexes and with the standard library."""

import os
import threading
import time
from collections import deque
from pathlib import Path

from lightning_drift.common.claim_files import CLAIM
from lightning_drift.sweep.index_head import INDEX, is_index

MOST_DEPTH, MOST_FOLDERS, MOST_ENTRIES = 8, 5_000, 500_000
"""How far below the log folder sweeps are looked for, and in how many folders and names of files at most."""

KEPT_SECONDS = 5.0

# A run's own folders hold thousands of files and no sweep.
_OF_A_RUN = frozenset({"checkpoints", "drift", "grids", CLAIM})


class OwnSweeps:
    """Finds sweeps: folders with an index of ours, which lie in the log folder, links followed.

    Args:
        root: The log folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._found: list[Path] = []
        self._until = float("-inf")

    def folders(self) -> list[Path]:
        """The sweeps' folders, the nearest to the log folder first; looked for every few seconds."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = self._look()
                self._until = time.monotonic() + KEPT_SECONDS
            return self._found

    def is_one(self, folder: Path) -> bool:
        """Whether a folder is a sweep's: its index lies in the log folder, links followed."""
        path = folder / INDEX
        try:
            real = Path(os.path.realpath(path))
            return real.is_relative_to(os.path.realpath(self.root)) and is_index(real)
        except (OSError, ValueError):  # it may not be read, or is no name of a file
            return False

    def _look(self) -> list[Path]:
        """Breadth first, so that of too many folders the nearest are looked into; a link in a circle ends."""
        real_root = os.path.realpath(self.root)
        waiting, seen, entries = deque([(self.root, 0)]), {real_root}, 0
        found: list[Path] = []
        while waiting:
            folder, depth = waiting.popleft()
            try:
                with os.scandir(folder) as listing:
                    names = {}
                    for entry in listing:
                        entries += 1
                        if entries > MOST_ENTRIES:
                            return found
                        names[entry.name] = entry.is_dir()
            except OSError:  # it may not be read, or is gone
                continue
            if INDEX in names and self.is_one(folder):
                found.append(folder)
                continue
            if depth == MOST_DEPTH:
                continue
            passed = _OF_A_RUN if "config.yaml" in names else frozenset()
            for name in sorted(name for name, is_folder in names.items() if is_folder and name not in passed):
                real = os.path.realpath(folder / name)
                if real in seen or not Path(real).is_relative_to(real_root):
                    continue
                if len(seen) == MOST_FOLDERS:
                    break
                seen.add(real)
                waiting.append((folder / name, depth + 1))
        return found
