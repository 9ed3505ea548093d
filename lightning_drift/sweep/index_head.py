"""Whether a file is the index of a sweep, told by its first line and with the standard library."""

import os
from pathlib import Path

INDEX = "index.csv"
"""The index's name in a sweep's folder."""


def is_index(path: Path) -> bool:
    """Whether the head of a file is that of an index.

    Raises:
        OSError: It cannot be read.
    """
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        head = file.readline(2**16).decode("utf-8", "replace").strip().split(",")
    return {"file", "prompt", "seed"} <= {name.strip('"') for name in head}
