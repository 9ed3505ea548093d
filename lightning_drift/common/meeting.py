"""What a run's processes tell each other beside the training: what the first has decided, and that one ended.

`torchrun` and `srun` start all processes of a run at once, each with the whole command line. They meet in
PyTorch's store, which every training on several devices has, before the Trainer is made.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from lightning_drift.common import ends
from lightning_drift.common.errors import UserError
from lightning_drift.common.ranks import Launched, launched

_JOINING = 300.0  # seconds until the first process must be there: a cold shared disk is slow to import from
_ASKING = 0.05
_WATCHING = 0.5
_GRACE = 8.0  # for a process to end by itself, once another one has; torchrun kills after 30
_SPEAKING = 3.0  # for the first process to come upon the same refusal and say it


class Meeting:
    """The place where the processes of a run meet.

    Args:
        place: Which of them this is.

    Raises:
        UserError: The others cannot be reached, or nothing says where they are.
    """

    def __init__(self, place: Launched) -> None:
        self._place = place
        self._first = place.rank == 0
        self._prefix = f"lightning-drift/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._hosts = self._first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self._store = _store(place, self._hosts)
        self._watched = _store(place, hosts=False)
        self._over = threading.Event()
        self._handing_on, self._told = threading.Lock(), False  # whether this process knows that it ends
        threading.Thread(target=self._watch, daemon=True).start()

    # -- what the first process decides ------------------------------------------------------------------

    def agreed(self, key: str, make: Callable[[], Any]) -> Any:
        """What the first process makes, in all processes; plain values that JSON holds.

        Raises:
            SystemExit: The first process has ended instead, and said why.
        """
        if self._first:
            value = make()
            self._store.set(self._key(key), json.dumps({"value": value}))
            return value
        while True:
            end = self._end()
            if (found := self._read(self._store, key)) is not None:
                return found["value"]
            if end is not None:
                raise SystemExit(end["status"])
            time.sleep(_ASKING)

    # -- how it ends -------------------------------------------------------------------------------------

    def cause_of(self, error: BaseException) -> BaseException:
        """Why a process really ends: where another one failed first, the first one says that one's reason.

        What it sees itself is a lost connection, or a signal of the launcher.
        """
        try:
            with self._handing_on:
                self._told = True
            if not self._first or isinstance(error, UserError):
                return error
            return self._cause_of(error)
        except ends.Ended as end:  # the other's signal, handed on meanwhile
            return end

    def _cause_of(self, error: BaseException) -> BaseException:
        lost = _is_lost_connection(error)
        deadline = time.monotonic() + (_SPEAKING if lost else 0)
        while (other := self._failed()) is None and time.monotonic() < deadline:
            time.sleep(_ASKING)
        if other is None:
            if lost:
                return UserError(
                    "another process of the run is gone (its computer or its memory may tell why), and this "
                    "one cannot go on alone"
                )
            return error
        if other["signal"]:
            return error if isinstance(error, ends.Ended) else ends.Ended(other["signal"])
        if not other["sentence"]:
            return UserError(f"process {other['rank']} of the run has failed; its report stands above")
        return UserError(other["sentence"])

    def leave(self, error: BaseException | None) -> None:
        """Tell the others that this process ends, and let the first one speak before it does.

        Args:
            error: Why; None at the command's end.

        Raises:
            SystemExit: The first process has ended already, and said why.
        """
        self._over.set()
        signal = error.number if isinstance(error, ends.Ended) else 0
        status = error.status if isinstance(error, ends.Ended) else 2 if error is not None else 0
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if self._first:
            with suppress(RuntimeError):
                self._store.set(self._key("ended"), json.dumps({"status": status, "signal": signal}))
                self._wait_for_all(60.0 if status == 0 else _SPEAKING if self._hosts else 0.0)
            return
        end = self._end() if status else None
        if end is None and status and not isinstance(error, SystemExit):
            self._fail(error, signal)
        deadline = time.monotonic() + (_SPEAKING if status and not signal else 0)
        while end is None and time.monotonic() < deadline:
            time.sleep(_ASKING)
            end = self._end()
        with suppress(RuntimeError):  # the store is gone with its host
            self._store.add(self._key("done"), 1)
        if end is not None and not isinstance(error, UserError | SystemExit | ends.Ended):
            raise SystemExit(end["status"] or 2) from error

    def _wait_for_all(self, seconds: float) -> None:
        """Stay until the others need the store no more, which ends with its host."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._store.add(self._key("done"), 0) >= self._place.world_size - 1:
                return
            time.sleep(_ASKING)

    def _fail(self, error: BaseException | None, signal: int) -> None:
        sentence = str(error) if isinstance(error, UserError) else ""
        about = {"rank": self._place.rank, "sentence": sentence, "signal": signal}
        with suppress(RuntimeError):
            self._store.compare_set(self._key("failed"), "", json.dumps(about))

    def _failed(self) -> dict[str, Any] | None:
        try:
            return self._read(self._store, "failed")
        except RuntimeError:
            return None

    def _end(self) -> dict[str, Any] | None:
        """How the first process has ended; None while it lives."""
        try:
            return self._read(self._store, "ended")
        except RuntimeError:  # it was the store's host
            return {"status": 2, "signal": 0}

    def _watch(self) -> None:
        """End this process where another one has ended, for which it may be waiting for ever."""
        found: dict[str, Any] | None = None
        try:
            while found is None:
                if self._over.wait(_WATCHING):
                    return
                found = self._read(self._watched, "failed" if self._first else "ended")
        except RuntimeError:
            pass
        with self._handing_on:
            if found and found["signal"] and not self._told:
                ends.hear_too(found["signal"])
        if self._over.wait(_GRACE):
            return
        if found is None and self._place.rank == 1:
            _say("lightning-drift: the first process of the run is gone, and so ends this one")
        if found and self._first:
            sentence = found["sentence"] or f"process {found['rank']} of the run has ended"
            _say(f"error: {sentence}. This one waited for it")
        os._exit((found or {}).get("status") or 2)

    # -- the store ---------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _read(self, store: Any, name: str) -> dict[str, Any] | None:
        key = self._key(name)
        return dict(json.loads(store.get(key))) if store.check([key]) else None


_meeting: Meeting | None = None


@contextmanager
def together() -> Iterator[None]:
    """Within, the processes of a run that a launcher started know of each other, and end together.

    Raises:
        UserError: They cannot meet.
        SystemExit: In a process after the first, once that one has said why the run ends.
    """
    global _meeting
    place = launched()
    if place is None or place.world_size == 1:
        yield
        return
    _meeting = meeting = Meeting(place)
    try:
        yield
    except BaseException as error:
        ended_well = isinstance(error, SystemExit) and not error.code
        meeting.leave(None if ended_well else error)
        raise
    else:
        meeting.leave(None)
    finally:
        _meeting = None


def agreed(key: str, make: Callable[[], Any]) -> Any:
    """What the first process of a run makes, in all of them; see `Meeting.agreed`."""
    return make() if _meeting is None else _meeting.agreed(key, make)


def cause_of(error: BaseException) -> BaseException:
    """Why a process of a run really ends; see `Meeting.cause_of`."""
    return error if _meeting is None else _meeting.cause_of(error)


def _store(place: Launched, hosts: bool) -> Any:
    """A connection to the store; under srun the first process hosts it, under torchrun its agent."""
    import torch.distributed as dist

    if place.by == "srun":
        _find_slurm_host(place)
    address = os.environ.get("MASTER_ADDR", "")
    port = os.environ.get("MASTER_PORT", "")
    if not address or not port.isdecimal():
        raise UserError(f"{place.by} has not set {'MASTER_PORT' if address else 'MASTER_ADDR'}")
    if not hosts:
        _wait_for(address, int(port))
    try:
        # Several tenants: the Trainer's own store lies in the same place.
        return dist.TCPStore(  # type: ignore[attr-defined]  # it is public, and not said to be exported
            address,
            int(port),
            is_master=hosts,
            timeout=timedelta(seconds=60),
            wait_for_workers=False,
            multi_tenant=hosts,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the processes cannot meet at {address}:{port}: {reason}", "MASTER_PORT") from error


def _find_slurm_host(place: Launched) -> None:
    """Set ``MASTER_ADDR`` and ``MASTER_PORT``, where they are not given, as the Trainer will.

    Raises:
        UserError: SLURM was not told how many tasks each computer has.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise UserError(
            f"srun has started {place.world_size} tasks and not been told how many a computer has, which "
            f"the Trainer asks for; give it --ntasks-per-node={place.per_node}",
            "SLURM_NTASKS_PER_NODE",
        )
    slurm = SLURMEnvironment(auto_requeue=False)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)


def _wait_for(address: str, port: int) -> None:
    """Wait until the store's host listens, open to signals."""
    deadline = time.monotonic() + _JOINING
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"the first process of the run is not at {address}:{port} ({error.strerror or error})",
                    "MASTER_ADDR",
                ) from error
            time.sleep(_ASKING)


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective has lost the process at its other end."""
    text = str(error)
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo/transport")
    return isinstance(error, RuntimeError) and any(word in text for word in words)


def _say(line: str) -> None:
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
