"""A claim on a folder that holds across computers which share a file system.

In a claimed folder lies ``.claim``, a folder with one file: ``free``, or ``<token>.<beat>`` of its holder.
This file is renamed, and nothing else ever happens to it: from free to the holder's, back when it lets go, to
the next beat while it lives, to another's when it has expired. Of several processes that rename one name, one
succeeds, on any file system that several computers share, whether or not locks reach from one to another.
"""

import os
import re
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from lightning_drift.common.claim_files import CLAIM, FREE, Found, found_in, make, renew, time_there
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.holder import Holder
from lightning_drift.common.moment import Moment

INTERVAL = 15.0
"""Seconds between two beats: a claim loses several before anyone takes it for abandoned."""

EXPIRY = 180.0
"""Seconds without a beat after which a claim may be taken over.

NFS shows other computers a file's date up to 60 s late, and a busy server may keep a process waiting.
"""

_LONG = 3600.0  # what clocks of computers never differ by, if anyone looks after them
_CLOCKS = 120.0  # what they differ by where one only looks
_TRIES = 100


class Claim:
    """The right to write into a folder, on all computers that share it.

    A thread renews it while the process lives. A process that cannot (its computer sleeps, or is cut off) may
    lose it to another: `check` tells, and is to be asked before anything is written.

    Args:
        folder: The folder; it is there.
        what: What is claimed, for the messages, such as ``run``.
        locked: This process holds the system's lock on the folder too.
        interval: Seconds between two beats.
        expiry: Seconds without a beat after which another process may take it over.

    Raises:
        UserError: Another process holds it; the message says which, and since when. Or what lies at the
            claim's place is none.
        OSError: The file system refuses.
    """

    def __init__(
        self,
        folder: Path,
        what: str,
        locked: bool = False,
        interval: float = INTERVAL,
        expiry: float = EXPIRY,
    ) -> None:
        self.folder, self._what, self._locked = folder, what, locked
        self._interval, self._expiry = interval, expiry
        host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname())[:60]
        self._token = f"{host}-{os.getpid()}-{secrets.token_hex(8)}"
        self._place, self._number, self._pid = folder / CLAIM, 0, os.getpid()
        self._guard, self._stop = threading.Lock(), threading.Event()
        self._lost: float | None = None  # seconds for which it had not been renewed
        self._released = False
        self._error: OSError | None = None
        self._beaten = Moment()
        self._take()
        self._thread = threading.Thread(target=self._beat_on, name="claim", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether it is known that another process has taken it."""
        return self._lost is not None

    # -- taking it --------------------------------------------------------------------------------------

    def _take(self) -> None:
        watched: set[str] = set()
        for _ in range(_TRIES):
            found = found_in(self._place)
            if not found:
                make(self._place)
                continue
            if expired := self._refuse_living(found):
                # On some file systems a date is that of the computer that wrote it, and clocks differ.
                unwatched = [f"{each.name}" for each in expired if each.name not in watched]
                if unwatched:
                    notice(f"waiting {1.5 * self._interval:.0f} s to see whether {expired[0].words()} still "
                           f"writes the {self._what} {self.folder}")  # fmt: skip
                    time.sleep(1.5 * self._interval)
                    watched.update(unwatched)
                    continue
            # Where there are several (a copy into an older copy), all must try for the same one.
            if self._won(found[0].path) and self._alone():
                self._beaten = Moment()
                return
            time.sleep(0.01 + 0.04 * secrets.randbelow(1000) / 1000)
        raise UserError(
            f"the {self._what} {self.folder} is being written by another process; wait for it or stop it"
        )

    def _refuse_living(self, found: list[Found]) -> list[Found]:
        """Refuse a folder that someone alive holds.

        Returns:
            Claims that have expired by their dates alone, and not long ago.

        Raises:
            UserError: It is held.
        """
        expired, now = [], None
        for each in found:
            if each.is_free or each.is_over(self.folder, self._locked):
                continue
            if now is None:
                now = time_there(self.folder)
            age = now - each.date
            if abs(age) <= self._expiry:
                raise self._refusal(each, max(0.0, age))
            if age < _LONG:
                expired.append(each)
        return expired

    def _refusal(self, found: Found, age: float) -> UserError:
        sentence = f"the {self._what} {self.folder} is being written by {found.words()}"
        if found.holder is not None and found.holder.is_local:
            return UserError(f"{sentence}; wait for it or stop it")
        left = max(1, round(self._expiry - age))
        return UserError(
            f"{sentence}, last heard of {age:.0f} s ago; wait for it or stop it, or if that computer is "
            f"gone, try again in {left} s"
        )

    def _won(self, theirs: Path) -> bool:
        """Try for a claim's file, which several may do at once."""
        try:
            # It takes its date along, by which it must not have expired when it is ours.
            renew(theirs)
            self._rename(theirs, self._path)
            # What it tells of its former holder is not believed any more: the token is another.
            with suppress(OSError):  # a full disk: its name tells enough
                descriptor = os.open(self._path, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
                with open(descriptor, "wb") as file:
                    file.write(Holder.here(self.folder, self._token, self._locked).content())
            renew(self._path)
        except FileNotFoundError:
            return False
        return True

    def _alone(self) -> bool:
        """Whether no one else has won another file; those that are over go."""
        others = [each for each in found_in(self._place) if not each.name.startswith(f"{self._token}.")]
        for each in others:
            over = each.is_free or each.is_over(self.folder, self._locked)
            if not over and abs(time_there(self.folder) - each.date) <= self._expiry:
                self._path.unlink(missing_ok=True)
                return False
        for each in others:
            each.path.unlink(missing_ok=True)
        return True

    # -- keeping it -------------------------------------------------------------------------------------

    @property
    def _path(self) -> Path:
        return self._place / f"{self._token}.{self._number}"

    def _beat_on(self) -> None:
        while not self._stop.wait(self._interval) and self._lost is None:
            self._beat()

    def _beat(self) -> None:
        """Renew it, under another name: whoever has seen it expired before cannot take it any more.

        A date alone could be set on another's file by a computer that remembers it under the former name.
        """
        with self._guard:
            if self._released or self._lost is not None:
                return
            try:
                before = self._path
                after = before.with_name(f"{self._token}.{self._number + 1}")
                self._rename(before, after)
                self._number += 1
                renew(after)
            except (FileNotFoundError, NotADirectoryError):
                self._lost = self._beaten.seconds()
            except OSError as error:  # tried again; nothing says yet that it is lost
                self._error = error
            else:
                self._beaten, self._error = Moment(), None

    def _rename(self, before: Path, after: Path) -> None:
        """Rename, where a lost answer of a file server makes what was done look undone.

        Raises:
            OSError: It was not done.
        """
        try:
            os.rename(before, after)
        except FileNotFoundError:
            if after.name not in os.listdir(after.parent):
                raise

    def check(self) -> None:
        """Whether the folder is this process's still; quick while it is.

        Raises:
            UserError: Another process has taken it over, or may do so soon.
        """
        recent = self._beaten.seconds() < 2 * self._interval
        if os.getpid() != self._pid:
            if not recent:  # a copy of the process that holds it, which alone renews it
                self._look()
            return
        if self._lost is None and not recent:
            self._beat()
        if self._lost is not None:
            raise self._taken(self._lost)
        self._refuse_doubt()

    def _look(self) -> None:
        try:
            names = os.listdir(self._place)
        except (FileNotFoundError, NotADirectoryError):
            names = []
        except OSError as error:
            self._error = error
            self._refuse_doubt()
            return
        if not any(name.startswith(f"{self._token}.") for name in names):
            raise self._taken(self._beaten.seconds())
        self._beaten = Moment()

    def _refuse_doubt(self) -> None:
        idle, error = self._beaten.seconds(), self._error
        if error is not None and idle > self._expiry / 2:
            raise UserError(
                f"this process could not renew its claim on the {self._what} {self.folder} for {idle:.0f} s "
                f"({error.strerror}), and another may take it over; it ends without writing there"
            )

    def _taken(self, idle: float) -> UserError:
        by = standing(self.folder, self._expiry)[1] or "nobody"
        return UserError(
            f"the {self._what} {self.folder} is this process's no more: its claim was not renewed for "
            f"{idle:.0f} s and was taken over, and {by} holds it now; this process ends without writing there"
        )

    # -- letting go -------------------------------------------------------------------------------------

    def release(self, leave: bool = True) -> None:
        """Let another process have it. In a process that was forked from the holder this does nothing.

        Args:
            leave: ``free`` stays in the folder. It is left wherever the folder stays: to let go is one step
                then, after which the claim is as valid as before. To delete it takes two, and where folders
                are not replaced by a rename, whoever comes between them finds a claim that none can take.
        """
        if os.getpid() != self._pid or self._released:
            return
        self._stop.set()
        with self._guard:
            self._released = True
            if self._lost is None:
                with suppress(OSError):  # it was taken over, or expires
                    if leave:
                        os.rename(self._path, self._place / FREE)
                    else:
                        self._path.unlink()
                        self._place.rmdir()
        self._thread.join()


def standing(folder: Path, expiry: float = EXPIRY) -> tuple[bool | None, str]:
    """Whether a claim holds a folder, told without changing anything there.

    It goes by this computer's clock, and takes a claim for alive a while longer: clocks differ.

    Args:
        folder: The folder.
        expiry: Seconds without a beat after which a claim may be taken over.

    Returns:
        Whether it does, and who, in words. None if no claim tells: it is free, was never made, or is none.
    """
    try:
        found = found_in(folder / CLAIM)
    except (OSError, UserError):
        return None, ""
    claims = [each for each in found if not each.is_free]
    for each in claims:
        if not each.is_over(folder, locked=False):
            age = time.time() - each.date
            if age < expiry + _CLOCKS:
                heard = (
                    f", last heard of {max(0.0, age):.0f} s ago"
                    if each.holder is None or not each.holder.is_local
                    else ""
                )
                return True, each.words() + heard
    return (False, "") if claims else (None, "")
