"""One command as a process group of its own: forked from a warm parent, or started as a person does."""

import atexit
import ctypes
import inspect
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from scripts.campaign.calls import Calls, kill_at_call

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "200",
}
PATIENCE = 300.0
"""Seconds after which a command counts as hung."""


class HungError(Exception):
    """A command did not end."""


class Process:
    """A running command.

    Args:
        pid: Its process number, which is its group's too.
        log: Where its output goes.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self.began = time.monotonic()
        self.status: int | None = None

    def poll(self) -> int | None:
        """The status, negative for the number of the signal that ended it; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self, seconds: float = PATIENCE) -> int:
        """The status once it has ended.

        Raises:
            HungError: It still runs after so many seconds; it is killed.
        """
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill_tree()
                raise HungError
            time.sleep(0.005)
        assert self.status is not None
        return self.status

    def signal(self, number: int, group: bool) -> None:
        """Send a signal to the process or to its group."""
        if self.poll() is None:
            if group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """End all of its group at once, as ``kill -9`` of a job does."""
        self.signal(signal.SIGKILL, group=True)
        self.wait()

    def kill_tree(self) -> None:
        """End it and everything that it started, as a power cut does."""
        numbers = [self.pid, *descendants(self.pid)]
        for pid in numbers:
            _kill(pid)
        if self.poll() is None:
            self.wait()
        end_orphans()

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The processes that a process and its children have started and that still run."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    ahead = [pid]
    while ahead:
        own = children.get(ahead.pop(), [])
        found += own
        ahead += own
    return found


def end_orphans() -> None:
    """Kill and reap whatever commands that are gone have left to this process (see ``begin_worker``)."""
    while orphans := descendants(os.getpid()):
        for pid in orphans:
            _kill(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def begin_worker() -> None:
    """Make this process the parent of what its commands leave running, and end with its own parent.

    Commands in sessions of their own outlive what started them; here everything ends with the campaign.

    Raises:
        OSError: The system is not Linux.
    """
    end_with_parent, adopt_orphans = 1, 36
    system = ctypes.CDLL(None)
    if system.prctl(adopt_orphans, 1, 0, 0, 0) or system.prctl(end_with_parent, signal.SIGTERM, 0, 0, 0):
        raise OSError("prctl refuses to adopt orphans")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


# -- starting ---------------------------------------------------------------------------------------------


def start(
    argv: Sequence[str], folder: Path, log: Path, warm: bool = True, calls: Calls | None = None
) -> Process:
    """Start ``lightning-drift`` with its arguments in a folder, in a session of its own.

    Args:
        argv: The arguments.
        folder: The working folder.
        log: Gets what it prints; appended to.
        warm: Fork this process, which has imported everything; otherwise start the installed program.
        calls: Counts the calls that change files, and where it is to die; of a warm process only.
    """
    with open(log, "ab") as output:
        output.write(f"$ lightning-drift {' '.join(argv)}\n".encode())
        output.flush()
        return Process((_fork if warm else _execute)(argv, folder, output.fileno(), calls), log)


def _execute(argv: Sequence[str], folder: Path, output: int, _: Calls | None) -> int:
    """Start the installed program."""
    program = shutil.which("lightning-drift", path=os.path.dirname(sys.executable))
    command = [program] if program else [sys.executable, "-m", "lightning_drift"]
    process = subprocess.Popen(
        [*command, *argv],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ | ENVIRONMENT,
        start_new_session=True,
        preexec_fn=default_signals,
    )
    process.returncode = 0  # the status is ours to ask for
    return process.pid


def _fork(argv: Sequence[str], folder: Path, output: int, calls: Calls | None) -> int:
    """Fork this process, which goes on as the command."""
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a process with threads cannot be forked: what they hold stays held")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        os.closerange(3, 256)
        subprocess.Popen = WarmPopen  # type: ignore[misc, assignment]
    except BaseException:
        traceback.print_exc()
        os._exit(99)
    return become(argv, calls)


def become(argv: Sequence[str], calls: Calls | None = None) -> NoReturn:
    """Be the command from here on, as if the program had been executed, and end as it would."""
    status = 99
    try:
        default_signals()
        sys.argv = ["lightning-drift", *argv]
        from lightning_drift.cli import main

        if calls is not None:
            kill_at_call(calls)
        try:
            answer = main()
            status = answer if isinstance(answer, int) else 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except KeyboardInterrupt:
            traceback.print_exc()
            status = 128 + signal.SIGINT
        except BaseException:
            traceback.print_exc()
            status = 1
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def default_signals() -> None:
    """The dispositions that a shell gives a program and Python gives itself."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class WarmPopen(subprocess.Popen[bytes]):
    """Popen that forks instead of executing where the program is our own: a corridor's fits start at once.

    All else is Popen's: pipes, the session, inherited descriptors, the status.
    """

    def _execute_child(self, *given: object) -> None:
        names = [*inspect.signature(super()._execute_child).parameters]  # type: ignore[misc]
        options = dict(zip(names, given, strict=True))
        words = options["args"]
        program = [sys.executable, "-m", "lightning_drift"]
        if not isinstance(words, list) or words[:3] != program:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        pipes: list[int] = [
            options[name]  # type: ignore[misc]
            for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        ]
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self.pid = pid
            self._child_created = True
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
            return
        try:
            _be_executed(options, pipes)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
        become(words[3:])


def _be_executed(options: Mapping[str, object], pipes: Sequence[int]) -> None:
    """What the system does between fork and the program's first line."""
    reading, _, _, writing, _, errors = pipes
    if options["start_new_session"]:
        os.setsid()
    sources = [os.dup(fd) if fd != -1 else standard for standard, fd in enumerate((reading, writing, errors))]
    for standard, fd in enumerate(sources):
        if fd != standard:
            os.dup2(fd, standard)
    if options["cwd"] is not None:
        os.chdir(str(options["cwd"]))
    hear: Callable[[], object] | None = options["preexec_fn"]  # type: ignore[assignment]
    default_signals()
    if hear is not None:
        hear()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    kept = {int(fd) for fd in options["pass_fds"]}  # type: ignore[attr-defined]
    for fd in range(3, 256):
        if fd not in kept:
            with suppress(OSError):
                os.close(fd)
    environment: Mapping[str, str] | None = options["env"]  # type: ignore[assignment]
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)


def shared_counter() -> mmap.mmap:
    """Eight bytes that this process and those it forks see alike."""
    counter = mmap.mmap(-1, 8)
    counter[:8] = struct.pack("<q", 0)
    return counter


def import_everything() -> float:
    """Import what the commands import, without computing anything.

    Returns:
        The seconds it took, which is what a cold process needs more.
    """
    began = time.monotonic()
    import bitsandbytes  # noqa: F401
    import diffusers.schedulers.scheduling_ddim  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import torchmetrics  # noqa: F401
    from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
        event_accumulator,  # noqa: F401
    )

    import lightning_drift.corridor.command
    import lightning_drift.corridor.fit_queue
    import lightning_drift.export.command
    import lightning_drift.lightning_cli
    import lightning_drift.sweep.report  # noqa: F401

    return time.monotonic() - began
