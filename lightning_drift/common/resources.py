"""What a machine runs out of in the middle of a command: its disk, its memory, its GPU's memory."""

import errno
import re
from pathlib import Path

from lightning_drift.common.out_of_memory import sentence as out_of_memory

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EFBIG: "a file may not become so large here",
    errno.EROFS: "the disk can only be read",
    errno.EIO: "the disk does not answer",
    errno.ESTALE: "the disk does not answer",
    errno.ENODEV: "the disk is gone",
    errno.ENOTCONN: "the disk is gone",
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine",
    errno.EACCES: "it is not permitted",
    errno.EPERM: "it is not permitted",
}


def shortage(error: BaseException, place: Path | None = None) -> str:
    """What a machine lacks, as a sentence; empty if the error tells of something else.

    Args:
        error: What ended a command, with what it came from.
        place: Where the command writes, for an error that names no file.
    """
    if lacking := out_of_memory(error):
        return lacking
    seen: BaseException | None = error
    while seen is not None:
        if lacking := _of(seen, place):
            return lacking
        seen = seen.__cause__ or seen.__context__
    return ""


def _of(error: BaseException, place: Path | None) -> str:
    number, path = None, None
    if isinstance(error, OSError):
        number, path = error.errno, error.filename
    elif type(error).__name__ == "SafetensorError":  # the library keeps the system's number in its text alone
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else None
    if number not in _DISK:
        return ""
    path = path if path is not None else place
    where = f"cannot write to or read {path}: " if path is not None else ""
    return f"{where}{_DISK[number]}"
