"""What lies in the folder of a claim: files that are there one at a time, looked at with all caution."""

import os
import re
import secrets
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lightning_drift.common.errors import UserError
from lightning_drift.common.holder import Holder

CLAIM = ".claim"
"""In a claimed folder: the folder that tells whose it is."""

FREE = "free"
"""The file in it that nobody holds."""

_MOST = 1000  # files in a claim's folder that are looked at


@dataclass(frozen=True)
class Found:
    """A file in a claim's folder.

    Attributes:
        name: Its name.
        path: Where it is.
        date: Of its last beat, as the file system has it.
        holder: Who it tells of itself; None where it tells of nobody, or of a former holder.
    """

    name: str
    path: Path
    date: float
    holder: Holder | None

    @property
    def is_free(self) -> bool:
        """Whether nobody holds it."""
        return self.name == FREE

    def is_over(self, folder: Path, locked: bool) -> bool:
        """Whether its holder is known not to write there any more, however young its last beat is.

        Args:
            folder: The claimed folder.
            locked: This process holds the system's lock, which ends with the process that had it.
        """
        if self.holder is None:
            return False
        if self.holder.is_local:
            return self.holder.has_ended or self.holder.holds_another(folder)
        return locked and self.holder.locked and self.holder.on_this_computer  # in another container

    def words(self) -> str:
        """Whose it is, in words; its name tells where its content does not."""
        if self.holder is not None:
            return self.holder.words()
        named = re.fullmatch(r"([A-Za-z0-9-]{1,60})-([0-9]{1,10})-[0-9a-f]{16}\.[0-9]+", self.name)
        return f"process {named[2]} on {named[1]}" if named else "another process"


def found_in(place: Path) -> list[Found]:
    """What lies in a claim's folder, by name.

    Raises:
        UserError: It is no claim.
    """
    try:
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            raise _foreign(place)
        names = sorted(name for name in os.listdir(place) if not name.startswith("."))  # .nfs..., .DS_Store
    except FileNotFoundError:
        return []
    if len(names) > _MOST:
        raise _foreign(place)
    found = []
    for name in names:
        path = place / name
        with suppress(FileNotFoundError):  # renamed meanwhile
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                raise _foreign(path)
            holder = None
            with suppress(PermissionError):
                holder = None if name == FREE else Holder.read(path)
            if holder is not None and not (holder.token and name.startswith(f"{holder.token}.")):
                holder = None
            found.append(Found(name, path, status.st_mtime, holder))
    return found


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} is none of this program's; move it away and start again")


def make(place: Path) -> None:
    """Make a claim's folder, free, unless there is one: what is renamed to it has its file already."""
    private = place.with_name(f"{CLAIM}-{secrets.token_hex(8)}.partial")
    private.mkdir()
    try:
        (private / FREE).touch()
        os.rename(private, place)
    except OSError:
        with suppress(OSError):
            (private / FREE).unlink(missing_ok=True)
            private.rmdir()
        if not place.is_dir():
            raise
        with suppress(OSError):  # an empty one, where a rename does not replace it
            place.rmdir()


def time_there(folder: Path) -> float:
    """The time by the clock that dates a folder's files, which may be a file server's."""
    descriptor, name = tempfile.mkstemp(prefix=f"{CLAIM}-", suffix=".partial", dir=folder)
    try:
        os.close(descriptor)
        os.utime(name)
        return os.stat(name).st_mtime
    finally:
        os.unlink(name)


def renew(path: Path) -> None:
    """Date a file by its server's clock."""
    if os.utime in os.supports_follow_symlinks:
        os.utime(path, follow_symlinks=False)
    else:
        os.utime(path)
