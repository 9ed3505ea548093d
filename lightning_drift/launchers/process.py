"""A job as a process of the machine that it is on."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning_drift.common.ranks import CHILD_RUN
from lightning_drift.common.text import command
from lightning_drift.launchers.job import Job

GRACE = 60.0
"""Seconds that an interrupted job is given to end by itself; it may be writing a checkpoint."""

_OF_A_RUN = re.compile(
    f"{CHILD_RUN}$|(GLOBAL_|LOCAL_|NODE_|GROUP_)?RANK$|(LOCAL_)?WORLD_SIZE$|MASTER_(ADDR|PORT)$"
    "|TORCHELASTIC_|SLURM_(?!CONF$)"
)
"""Variables of a process that is one of several of a run: a job is a run of its own."""


def start(
    job: Job, changes: Mapping[str, str | None], folder: Path | None = None, last: bool = False
) -> "subprocess.Popen[bytes]":
    """Start a job's process.

    Args:
        job: The job.
        changes: Environment variables to set, and to leave out where they are None.
        folder: Its working folder; None for the present one.
        last: End it when this process ends, however that may be; on Linux.

    Raises:
        OSError: The log cannot be written, or the folder is not there.
    """
    environment = {key: value for key, value in os.environ.items() if not _OF_A_RUN.match(key)}
    for key, value in changes.items():
        environment.pop(key, None)
        if value is not None:
            environment[key] = value
    log_file = (folder or Path()) / job.log
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with open(log_file, "ab") as log:
        log.write(f"\n$ {command(job.words)}\n".encode())
        log.flush()
        # A session of its own: Ctrl-C reaches whoever started it alone, which then ends its jobs in order.
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_drift", *job.words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
            preexec_fn=_as_a_job(last) if os.name == "posix" else None,
            pass_fds=job.inherit if os.name == "posix" else (),
        )


def _as_a_job(last: bool) -> Callable[[], None]:
    """What a new process does before it is the job's."""
    set_death_signal: Callable[[], object] | None = None
    if last and sys.platform == "linux":
        import ctypes

        prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: a forked process may load nothing
        set_death_signal = lambda: prctl(1, signal.SIGTERM)  # noqa: E731  # PR_SET_PDEATHSIG

    def prepare() -> None:
        # One in the background of a shell ignores interrupts and would hand that down.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if set_death_signal is not None:
            set_death_signal()

    return prepare


@contextmanager
def heard_interrupts() -> Iterator[None]:
    """Processes that are started within hear interrupts, though this one be in the background of a shell."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def end(process: "subprocess.Popen[bytes]", deadline: float) -> None:
    """Wait for an interrupted process until a moment of ``time.monotonic()``; then kill it.

    It may be called by the handler of a signal that came amid `wait`.
    """
    deadline = max(deadline, time.monotonic() + 0.1)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is None:
        process.kill()
        for _ in range(100):
            if process.poll() is not None:
                break
            time.sleep(0.05)


def wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process; its exit status.

    Popen's own wait holds a lock, for which a signal's handler that waits too would wait for ever.
    """
    while (status := process.poll()) is None:
        time.sleep(0.2)
    return status


def interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process to stop as Ctrl-C does."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)


def run_here(job: Job, changes: Mapping[str, str | None], folder: Path) -> int:
    """Run a job from beginning to end, for an engine that has chosen this machine.

    An interrupt of this process reaches the job, which is then given time to end in order.

    Returns:
        The exit status.

    Raises:
        OSError: The log cannot be written, or the folder is not there: it is not shared.
    """
    return finish(start(job, changes, folder, last=True))


def finish(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process; whatever ends the waiting interrupts it, and it is given time to end in order.

    Returns:
        Its exit status.
    """
    try:
        return wait(process)
    except BaseException:
        stop(process)
        raise


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a process and wait until it has ended, or is killed after `GRACE`."""
    interrupt(process)
    end(process, time.monotonic() + GRACE)
