"""``--launcher command``: jobs by any command, such as ssh or a cloud's own launcher."""

import os
import shlex
import signal
import string
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.numbers import whole
from lightning_drift.launchers.job import Job, Launcher, Running
from lightning_drift.launchers.job_log import status_in

FOLDER = "launched"
"""In the folder of a corridor or of pictures: the exit status of each job."""
_CUT_OFF = 255  # of ssh, where the connection is lost
_FIELDS = ("line", "words", "folder", "name")


@dataclass(frozen=True)
class Command:
    """Any command that runs a line of shell on a machine that sees this folder.

    In the templates ``{line}`` is the whole line, as one word: it changes into the folder, runs the job with
    its output in the log, and writes its exit status beside. ``{words}`` is the job alone, as one word,
    ``{folder}`` the working folder, ``{name}`` the job's name.

    Args:
        run: The command, such as ``ssh -tt gpu1 {line}`` or ``sky jobs launch -y -d -n {name} drift.yaml
            --env LINE={line}``.
        detached: The command returns at once, and the job goes on; its end is told by its files.
        stop: A command that ends a detached job, such as ``sky jobs cancel -y -n {name}``; without it an
            interrupt leaves detached jobs running.
        at_once: Jobs handed over at a time, at most; by default all.
    """

    run: str = ""
    detached: bool = False
    stop: str | None = None
    at_once: int | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError(
                "give the command that runs a line of shell, such as 'ssh -tt gpu1 {line}'", "launcher.run"
            )
        _check(self.run, "launcher.run")
        if not any(f"{{{name}}}" in self.run for name in ("line", "words")):
            raise UserError(
                f"{self.run!r} runs nothing of this program; put {{line}} into it", "launcher.run"
            )
        if self.stop is not None:
            _check(self.stop, "launcher.stop")
        if self.at_once is not None:
            whole(self.at_once, "launcher.at_once", 1, 100_000)

    def make(self, folder: Path, on_cpu: bool) -> Launcher:
        """The launcher."""
        return CommandLauncher(self, folder / FOLDER, on_cpu)


def _check(template: str, option: str) -> None:
    """Refuse a template with other fields.

    Raises:
        UserError: A field is unknown, or a bracket is not closed.
    """
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"{template!r}: {error}; write {{{{ and }}}} for brackets", option) from error
    for name in fields:
        if name not in _FIELDS:
            raise UserError(
                f"{{{name}}} is no field; they are {', '.join(f'{{{each}}}' for each in _FIELDS)}; "
                "write {{ and }} for brackets",
                option,
            )


class CommandRunning(Running):
    """A command that was started.

    Args:
        started: Its process.
        ended: The file that the job's exit status is written to.
        detached: Whether the job outlives it.
        stop: A line of shell that ends a detached job.
    """

    place = "a machine of the command"

    def __init__(
        self, started: "subprocess.Popen[bytes]", ended: Path, detached: bool, stop: str | None
    ) -> None:
        self._process, self._ended, self._detached, self._stop = started, ended, detached, stop

    def poll(self) -> int | None:
        """The job's exit status, or the command's where no job began; None while it waits or runs."""
        status = self._process.poll()
        if (told := status_in(self._ended)) is not None and (self._detached or status is not None):
            return told
        if status is None or (self._detached and status == 0):
            return None
        if status == _CUT_OFF or status == 0:
            self.lost = f"the command ended with status {status} before the job did"
        else:
            self.told = f"the command ended with status {status}; see the log"
        return status

    def interrupt(self) -> None:
        """Interrupt the command and all of its group, or have the job stopped."""
        if self._process.poll() is None:
            self._signal(signal.SIGINT)
        elif self._detached and status_in(self._ended) is None:
            if self._stop is None:
                notice("launcher.stop is not given: the job goes on where it is")
            else:
                subprocess.run(self._stop, shell=True, stdin=subprocess.DEVNULL, check=False)

    def end(self, deadline: float) -> None:
        """Wait for the command until a moment of ``time.monotonic()``; then kill it."""
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the shell and to all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class CommandLauncher(Launcher):
    """Runs a command for each job.

    Args:
        options: What was asked for.
        folder: For the jobs' exit statuses; all machines see it.
        on_cpu: The jobs use no GPU.
    """

    def __init__(self, options: Command, folder: Path, on_cpu: bool) -> None:
        self._options, self._folder, self._on_cpu = options, folder, on_cpu
        self._running: list[Running] = []

    def room(self) -> int | None:
        """What is left of `at_once`."""
        if self._options.at_once is None:
            return None
        self._running = [running for running in self._running if running.poll() is None]
        return self._options.at_once - len(self._running)

    def fields(self, job: Job) -> dict[str, str]:
        """What a template's fields are for a job."""
        words = shlex.join([Path(sys.executable).with_name("lightning-drift").as_posix(), *job.words])
        log, ended = shlex.quote(str(job.log)), shlex.quote(str(self._ended(job)))
        hidden = "CUDA_VISIBLE_DEVICES= " if self._on_cpu else ""
        line = f"cd {shlex.quote(str(Path.cwd()))} && {{ {hidden}{words} >>{log} 2>&1; echo $? >{ended}; }}"
        return {
            "line": shlex.quote(line),
            "words": shlex.quote(words),
            "folder": shlex.quote(str(Path.cwd())),
            "name": shlex.quote(job.name),
        }

    def launch(self, jobs: Sequence[Job]) -> list[Running]:
        """Start a command for each.

        Raises:
            UserError: No shell can be started.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        started: list[Running] = []
        for job in jobs:
            fields = self.fields(job)
            self._ended(job).unlink(missing_ok=True)
            line = self._options.run.format(**fields)
            stop = None if self._options.stop is None else self._options.stop.format(**fields)
            with open(job.log, "ab") as log:
                log.write(f"\n$ {line}\n".encode())
                log.flush()
                process = subprocess.Popen(
                    line,
                    shell=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            started.append(CommandRunning(process, self._ended(job), self._options.detached, stop))
        self._running += started
        return started

    def _ended(self, job: Job) -> Path:
        return self._folder / f"{job.name}.status"

    def describe(self) -> str:
        """The command."""
        return f"machines of {self._options.run!r}"

    def places(self) -> int | None:
        """As many as are handed over at a time."""
        return self._options.at_once
