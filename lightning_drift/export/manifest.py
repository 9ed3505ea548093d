"""Which files an export consists of: its notice lists them, so that ``--overwrite`` replaces nothing else."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning_drift.weights.hashes import sha256

_HEAD = "\nFiles of this export and their sha256:\n\n"
_FORMER = "\nFiles that it replaced:\n\n"
_LAST = "The sha256 of the text above: "


def signed(notice: str, folder: Path, names: Iterable[str], former: Mapping[str, str]) -> str:
    """A notice with a list of the export's other files behind it.

    Args:
        notice: Its text.
        folder: Where the files lie.
        names: Their names, relative to the folder.
        former: The sha256 of the earlier files that they replace, by name. If a kill leaves some of each, all
            are known, and the next export can replace them.
    """
    own = "".join(f"{sha256(folder / name)}  {name}\n" for name in sorted(names))
    replaced = "".join(f"{digest}  {name}\n" for name, digest in sorted(former.items()))
    text = f"{notice}{_HEAD}{own}{_FORMER + replaced if replaced else ''}\n"
    return f"{text}{_LAST}{hashlib.sha256(text.encode()).hexdigest()}\n"


def foreign(folder: Path, notice: str, names: Iterable[str]) -> list[str]:
    """The names of those files that no export wrote, or that someone has changed since.

    Args:
        folder: Where the files lie.
        notice: The name of the export's notice, which may be missing.
        names: The files' names, relative to the folder.
    """
    hashes = _read(folder / notice)
    return sorted(
        name for name in names if name not in hashes or _differs(folder / name, hashes[name]) or not hashes
    )


def _differs(path: Path, digests: set[str]) -> bool:
    if not digests:  # the notice itself, whose text was looked at
        return path.is_symlink()
    return path.is_symlink() or not path.is_file() or sha256(path) not in digests


def _read(notice: Path) -> Mapping[str, set[str]]:
    """The sha256 of an export's files by name; empty where the notice is missing or was changed."""
    if not notice.is_file() or notice.stat().st_size > 2**20:
        return {}
    text, _, digest = notice.read_bytes().decode("utf-8", "replace").rpartition(_LAST)
    if hashlib.sha256(text.encode()).hexdigest() != digest.strip():
        return {}
    lines = text.rpartition(_HEAD)[2].splitlines()
    found = (re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines)
    hashes: dict[str, set[str]] = {}
    for match in filter(None, found):
        hashes.setdefault(match[2], set()).add(match[1])
    return hashes | {notice.name: set()}
