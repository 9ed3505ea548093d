"""How much disk the checkpoints of a fit take at most, counted save by save, with what pruning frees."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_STEP = re.compile(r"step=(\d{5,18})\.ckpt")


def saved_files(folder: Path) -> dict[str, tuple[int, int]]:
    """The step checkpoints and ``last.ckpt`` in a folder: inode and bytes by name."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_size)
        for path in (folder.glob("*.ckpt") if folder.is_dir() else ())
        if path.is_file() and (_STEP.fullmatch(path.name) or path.name == "last.ckpt")
    }


def room_needed(
    steps: Iterable[int],
    every: int,
    keep: int | None,
    begin: int,
    end: int | None,
    size: int,
    there: Mapping[str, tuple[int, int]],
) -> tuple[int, int]:
    """Bytes beside those in use now that `StepCheckpoint` needs: at most at once, and in the end.

    A file is written beside the one it replaces, and older ones are deleted only when it is complete: while
    the checkpoint of step 1600 is written, the last.ckpt of step 1400 is still there.

    Args:
        steps: The steps to keep.
        every: How often ``last.ckpt`` is renewed; 0 only at the end.
        keep: How many step checkpoints stay; None for all.
        begin: The step that the fit begins at.
        end: Its last step; None if it has none.
        size: Bytes of a checkpoint.
        there: What is in the folder; see `saved_files`.

    >>> room_needed([800, 1200, 1600], 200, None, 0, 1600, 1, {})
    (4, 3)
    >>> room_needed([800, 1200, 1600], 200, 1, 0, 1600, 1, {})
    (3, 1)
    """
    milestones = sorted(step for step in set(steps) if begin < step and (end is None or step <= end))
    files = dict(there)
    before = most = _used(files)
    for step in _moments(milestones, every, begin, end):
        written = (-step, size)  # no inode of a file that is there
        if step in milestones:
            most = max(most, _used(files) + size)
            files[f"step={step:05d}.ckpt"] = written
            _prune(files, keep, step)
        if (every and step % every == 0) or step == end:
            if step not in milestones:
                most = max(most, _used(files) + size)
            files["last.ckpt"] = written
    return most - before, _used(files) - before


def _moments(milestones: list[int], every: int, begin: int, end: int | None) -> list[int]:
    """Where something is saved; of the many renewals between two milestones the first two and the last."""
    borders = [begin, *milestones, *([end] if end is not None else [])]
    moments = {*milestones, *([end] if end is not None and end > begin else [])}
    for border in borders if every else ():
        first = border // every * every
        moments |= {first + number * every for number in (-1, 0, 1, 2)}
    return sorted(step for step in moments if begin < step and (end is None or step <= end))


def _used(files: Mapping[str, tuple[int, int]]) -> int:
    return sum(dict(files.values()).values())


def _prune(files: dict[str, tuple[int, int]], keep: int | None, now: int) -> None:
    """As `StepCheckpoint` does: what lies ahead of the present step goes first."""
    if keep is None:
        return
    saved = {int(match[1]): name for name in files if (match := _STEP.fullmatch(name))}
    for step in sorted(saved, key=lambda step: (step > now, -step))[keep:]:
        if step != now:
            del files[saved[step]]
