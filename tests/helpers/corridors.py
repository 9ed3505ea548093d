"""The corridor command as a process of its own, and in this one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_drift.cli import main

_started: list["subprocess.Popen[bytes]"] = []


def start_corridor(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    """Start it in a folder, where ``said.txt`` takes what it says."""
    folder.mkdir(exist_ok=True)
    with open(folder / "said.txt", "ab") as said:
        _started.append(
            subprocess.Popen(
                [sys.executable, "-m", "lightning_drift", "corridor", *words],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=said,
                # Tests started in the background of a shell ignore interrupts and would hand that down.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
    return _started[-1]


def end_corridors() -> None:
    """Interrupt all that were started, so that they end their fits too."""
    while _started:
        process = _started.pop()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(process: "subprocess.Popen[bytes] | None", moment: Callable[[], object], folder: Path) -> None:
    """Wait for a moment while it runs; None after its end."""
    deadline = time.monotonic() + 240
    while not moment():
        assert process is None or process.poll() is None, (folder / "said.txt").read_text()
        assert time.monotonic() < deadline, (folder / "said.txt").read_text()
        time.sleep(0.05)


def say(capsys: Any, *words: str) -> tuple[int, str, str]:
    """Run it in this process: status, output and errors."""
    try:
        status = main(["corridor", *words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err
