"""What a launcher starts and what it gives back: a job, and the handle of one that was started."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A command of this program, to be run in the present folder wherever there is room for it.

    It goes on where it stopped when it is given again, so a launcher may run it anew at any time, and it
    refuses by itself to do what another process is doing.

    Args:
        name: Its name in the engine's lists, such as ``coffee-corridor-lr2e-6``.
        words: Its arguments after the program's name.
        log: The file that its output is added to, in a folder that all machines share.
        inherit: Descriptors of files that its process keeps open, if it runs on this computer.
    """

    name: str
    words: tuple[str, ...]
    log: Path
    inherit: tuple[int, ...] = ()


class Running(ABC):
    """A job that was handed to an engine.

    Attributes:
        place: Where it runs, in words, such as ``GPU 0``.
        lost: Why the engine ended it before the command did so itself (its node went away), so that it is to
            be started again; empty if it did not.
        told: What the engine says of its end beside the log; empty for nothing.
    """

    place: str = ""
    lost: str = ""
    told: str = ""

    @abstractmethod
    def poll(self) -> int | None:
        """The exit status, -n where the signal n killed it; None while it waits or runs."""

    @abstractmethod
    def interrupt(self) -> None:
        """Ask it to stop as Ctrl-C does; one that waits for its turn never begins."""

    @abstractmethod
    def end(self, deadline: float) -> None:
        """Wait for an interrupted job, until a moment of ``time.monotonic()``; then kill it."""

    def kill(self) -> None:
        """Kill it at once, without waiting."""
        self.end(0.0)


class Launcher(ABC):
    """An engine that runs jobs.

    Attributes:
        together: Whether jobs are best handed over many at a time.
        here: Whether they are processes of this computer, which keep what a job lets them inherit.
    """

    together: bool = False
    here: bool = False

    @abstractmethod
    def room(self) -> int | None:
        """How many more jobs it takes now; None for as many as there are, since it lets them wait."""

    @abstractmethod
    def launch(self, jobs: Sequence[Job]) -> list[Running]:
        """Hand over jobs, at most as many as there is room for.

        Raises:
            UserError: The engine refuses them.
        """

    @abstractmethod
    def describe(self) -> str:
        """Where jobs run, in words for a plan, such as ``GPU 0, GPU 1``."""

    def places(self) -> int | None:
        """How many jobs run side by side, where that is known."""
        return None

    def found(self, job: Job) -> Running | None:
        """The job, if an earlier process handed it over and the engine still has it."""
        return None

    def close(self) -> None:  # noqa: B027
        """Let go of the engine, once no job runs."""
