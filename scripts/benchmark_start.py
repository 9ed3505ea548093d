"""How long a user waits: help, the options of a fit, the first step of the demo's fit.

    .venv/bin/python scripts/benchmark_start.py

Each command runs in a process of its own, several times, and the median of seconds by the clock is printed.
The first step is counted from the start of the command to its mark on the bar, twice: of a base that is new
here, whose grid is rendered first, and of one whose pictures are on disk.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

COMMANDS = (
    ["--help"],
    ["fit", "--help"],
    ["corridor", "--help"],
    ["export", "--help"],
    ["predict", "--help"],
)


def seconds_of(words: Sequence[str]) -> float:
    """Seconds of a whole command."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lightning_drift", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def first_step(folder: Path, options: Sequence[str]) -> float:
    """Seconds from the start of a fit to its first step, which its bar shows."""
    command = [sys.executable, "-m", "lightning_drift", "fit", "--trainer.max_steps=1", *options]
    begin = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as fit:
        said = b""
        assert fit.stdout is not None
        while not re.search(rb"\b1/1\b", said):
            if not (more := fit.stdout.read1()):
                raise SystemExit(f"the fit ended without a step:\n{said.decode(errors='replace')}")
            said += more
        taken = time.perf_counter() - begin
    if fit.returncode:
        raise SystemExit(said.decode(errors="replace"))
    return taken


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed")
    parser.add_argument("fit", nargs="*", help="further options of the fit, after --")
    return parser.parse_args(argv)


def main() -> None:
    """Time everything and print it."""
    options = arguments()
    for words in COMMANDS:
        report(" ".join(words), [seconds_of(words) for _ in range(options.rounds)])
    new, known = [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            new.append(first_step(Path(folder), options.fit))
            known.append(first_step(Path(folder), options.fit))
    report("first step, new base", new)
    report("first step, known base", known)


def report(name: str, seconds: Sequence[float]) -> None:
    """Print a median."""
    print(
        f"{name:24}{statistics.median(seconds):6.1f} s  ({min(seconds):.1f} to {max(seconds):.1f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
