"""Which runs of a log folder are ours, told by their files alone and with the standard library."""

import os
import re
from pathlib import Path

# Every configuration of a fit names its seed grid, and that of a soup its seeds; other programs leave a
# config.yaml beside their event files too.
_OURS = re.compile(rb"^(seed_grid|soup)\s*:", re.MULTILINE)
_MOST_BYTES = 2**20


class OwnRuns:
    """Tells our runs by their ``config.yaml``, which is looked into once for each time that it was written.

    Args:
        root: The log folder. What leads out of it is not ours.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._known: dict[str, tuple[tuple[int, int, int], bool]] = {}

    def is_ours(self, name: str) -> bool:
        """Whether a run of TensorBoard's, named by its path from the log folder, is a fit or a soup of ours.

        A damaged configuration is still a sign of ours: its run is then named as damaged.
        """
        path = os.path.join(self.root, name, "config.yaml")
        try:
            status = os.stat(path)
            version = status.st_mtime_ns, status.st_size, status.st_ino
            if name in self._known and self._known[name][0] == version:
                return self._known[name][1]
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[name] = version, self._looks_ours(path)
        except (OSError, ValueError):
            return False
        return self._known[name][1]

    def _looks_ours(self, path: str) -> bool:
        if not os.path.isfile(path) or not Path(os.path.realpath(path)).is_relative_to(self._real):
            return False
        with open(path, "rb") as file:
            if _OURS.search(file.read(_MOST_BYTES)):
                return True
        grids = os.path.join(os.path.dirname(path), "grids")
        return os.path.isdir(grids) and any(name.startswith("step=") for name in os.listdir(grids))
