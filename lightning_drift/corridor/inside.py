"""Whether files lie in a folder, links followed: what others wrote shows nothing from elsewhere."""

import os
from pathlib import Path


def lies_in(path: Path, root: Path | None) -> bool:
    """Whether a path, links followed, lies in a folder; None is everywhere."""
    return root is None or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def all_lie_in(paths: tuple[Path, ...], root: Path | None, remarks: list[str]) -> bool:
    """The same of several files.

    Args:
        paths: The files.
        root: The folder; None is everywhere.
        remarks: Takes a sentence for each that lies elsewhere.
    """
    elsewhere = [path for path in paths if not lies_in(path, root)]
    remarks += [f"{path} is a link that leads out of {root}; it is passed over" for path in elsewhere]
    return not elsewhere
