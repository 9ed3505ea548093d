"""What tells one model's weights on disk from another's: sha256."""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path


def sha256(path: Path) -> str:
    """The sha256 of a file in hex; remembered while the file is unchanged.

    A file of the hub's cache is not read: there a large file's name is its sha256.
    """
    target = path.resolve()
    if path.is_symlink() and target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    status = target.stat()
    return _sha256(target, status.st_size, status.st_mtime_ns)


def files_hash(files: Mapping[str, Path]) -> str:
    r"""The model hash: the sha256 in hex of a model's weight files, by the names that they have in it.

    For one file it is the sha256 of the file, else that of its sorted lines
    ``<name> <sha256 of the file>\n``. Its first 10 digits are A1111's model hash.
    """
    if len(files) == 1:
        return sha256(next(iter(files.values())))
    lines = sorted(f"{name} {sha256(path)}\n" for name, path in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
