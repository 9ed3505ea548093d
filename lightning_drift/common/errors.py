"""What the program says to a person: one error class, one way to give notice."""

import sys
from collections.abc import Sequence

from lightning_drift.common.ranks import first_process
from lightning_drift.common.text import printable


class UserError(ValueError):
    """Something the user can mend. The message says what was wrong, where, and what to do.

    The command line prints it as one ``error: …`` line, with a line below it for each detail, and exits with
    status 2, without a traceback. Names and texts of others may stand in it: their control characters are
    written out (`printable`).

    Args:
        message: A sentence without a full stop, so that another can go on with it.
        option: The option whose value is refused, such as ``data.seeds``; it precedes the message.
        details: What the sentence is about one by one, such as files and what is wrong with each.

    Attributes:
        message: The sentence without the option.
        option: The option; empty where the fault is not in one.
        details: The details.
    """

    def __init__(self, message: str, option: str = "", details: Sequence[str] = ()) -> None:
        self.message = printable(message)
        self.option = printable(option)
        self.details = tuple(map(printable, details))
        sentence = f"{self.option}: {self.message}" if option else self.message
        super().__init__("\n  ".join([sentence, *self.details]))

    def of(self, option: str) -> "UserError":
        """The same fault, found in the value of another option."""
        return UserError(self.message, option, self.details)


def notice(message: str) -> None:
    """Print one line to standard error, in a run's first process only.

    Control characters in it are written out (`printable`): names and texts of others may stand in it.
    """
    if first_process():
        line = f"lightning-drift: {printable(message)}"
        if bars := sys.modules.get("tqdm"):  # progress bars step aside for the line
            bars.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
