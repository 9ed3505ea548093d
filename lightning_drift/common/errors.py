"""What the program says to a person: one error class, one way to give notice."""

import os
import sys


class UserError(ValueError):
    """Something the user can mend. The message says what was wrong, where, and what to do.

    The command line prints it as one ``error: …`` line and exits with status 2, without a traceback.

    Args:
        message: A sentence without a full stop, so that another can go on with it.
        option: The option whose value is refused, such as ``data.seeds``; it precedes the message.

    Attributes:
        message: The sentence without the option.
        option: The option; empty where the fault is not in one.
    """

    def __init__(self, message: str, option: str = "") -> None:
        super().__init__(f"{option}: {message}" if option else message)
        self.message = message
        self.option = option

    def of(self, option: str) -> "UserError":
        """The same fault, found in the value of another option."""
        return UserError(self.message, option)


def notice(message: str) -> None:
    """Print one line to standard error, in a run's first process only."""
    # Launchers tell processes their rank by environment.
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0:
        line = f"lightning-drift: {message}"
        if bars := sys.modules.get("tqdm"):  # progress bars step aside for the line
            bars.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
