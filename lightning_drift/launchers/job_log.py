"""What a job has said: the end of its log."""

import os
import re
from contextlib import suppress
from pathlib import Path

from lightning_drift.common.out_of_memory import sentence as out_of_memory

_READ = 2**16


def size(log: Path) -> int:
    """Bytes of a log; 0 where there is none."""
    with suppress(OSError):
        return os.stat(log).st_size
    return 0


def output(log: Path, begin: int = 0) -> str:
    """The end of a log, its last 64 KiB at most, as plain lines.

    Args:
        log: The file.
        begin: Its size when the job began; what stands before is another one's.
    """
    with suppress(OSError), open(log, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begin, end - _READ))
        text = file.read().decode("utf-8", "replace")
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "\n")
    return ""


def status_in(path: Path) -> int | None:
    """The exit status that a job's own end wrote into a file; None where it has not ended."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def last_words(text: str) -> str:
    """The sentence that this program ended with, from its output; empty where it said none."""
    # An unfinished bar has no line end of its own.
    sentences = re.findall(r"(?m)(?:^|\])error: (.+)$", text)
    return str(sentences[-1]) if sentences else ""


def last_line(text: str) -> str:
    """The last line of an output, in words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Some libraries end a process by themselves where memory is full, with a line of theirs.
    if lines and (full := out_of_memory(RuntimeError(lines[-1]))):
        return full
    return lines[-1][:500] if lines else "it said nothing"
