"""What the program says to a person: one error class, one way to give notice."""

import os
import sys


class UserError(ValueError):
    """Something the user can mend. The message says what was wrong, where, and what to do.

    The command line prints it as one ``error: …`` line and exits with status 2, without a traceback.
    """


def notice(message: str) -> None:
    """Print one line to standard error, in a run's first process only."""
    # Launchers tell processes their rank by environment.
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0:
        line = f"lightning-drift: {message}"
        if bars := sys.modules.get("tqdm"):  # progress bars step aside for the line
            bars.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
