"""Standard output as a process of its own meets it."""

import os
import subprocess
import sys
from pathlib import Path

_SPEAK = """
import contextlib, os, sys
from lightning_drift.common import streams
streams.last()
file = open("mine.txt", "w")
print("caf\\u00e9 \\u6708")
for _ in range(3):
    print("x" * 100_000, flush=True)
with contextlib.suppress(OSError):
    os.write(1, b"straight")  # as C++ does
file.write("kept")
"""


def run(folder: Path, redirection: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = f'"$PYTHON" -c "$CODE" {redirection}'
    variables = os.environ | {"PYTHON": sys.executable, "CODE": _SPEAK} | environment
    return subprocess.run(["bash", "-c", command], cwd=folder, env=variables, capture_output=True)


def test_a_stream_without_a_reader_ends_nothing(tmp_path: Path) -> None:
    for redirection in ("| head -c 1", ">&-", "<&- >&- 2>&-", "> /dev/full"):
        result = run(tmp_path, f"{redirection}; exit ${{PIPESTATUS[0]}}")
        assert result.returncode == 0, redirection
        assert result.stderr == b"", redirection
        assert (tmp_path / "mine.txt").read_text() == "kept"  # not what was printed meanwhile


def test_what_the_locale_lacks_is_escaped(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run(tmp_path, "", **plain)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(b"caf\\xe9 \\u6708\nxxx")
