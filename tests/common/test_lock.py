"""Who holds a folder, told without touching its lock."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_drift.common.lock import LOCK_FILE, FolderLock, is_held


def test_a_folder_is_held_from_the_lock_to_its_release(tmp_path: Path) -> None:
    assert is_held(tmp_path) is False
    lock = FolderLock(tmp_path, "run")
    before = (tmp_path / LOCK_FILE).stat()
    assert is_held(tmp_path) is True
    after = (tmp_path / LOCK_FILE).stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (
        before.st_mtime_ns,
        before.st_size,
        before.st_ino,
    )
    lock.release()
    assert is_held(tmp_path) is False


def test_a_lock_that_a_killed_process_left_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from lightning_drift.common.lock import FolderLock;"
        f"lock = FolderLock(Path({str(tmp_path)!r}), 'run'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / LOCK_FILE).exists()
    assert is_held(tmp_path) is False
    FolderLock(tmp_path, "run").release()  # looking at it has not taken it


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files a process has open")
def test_another_process_with_the_number_of_an_ended_one_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    assert is_held(tmp_path) is False


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"pid": 1}', '{"pid": 1, "host": "elsewhere"}', '{"pid": "x", "host": "y"}'],
)
def test_what_names_no_process_of_this_computer_tells_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    assert is_held(tmp_path) is None


@pytest.mark.parametrize("pid", [0, -1, 2**31, 10**30])
def test_numbers_that_no_process_has_are_not_asked_for(tmp_path: Path, pid: int) -> None:
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
    assert is_held(tmp_path) is None


def test_a_lock_that_is_a_pipe_or_a_link_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK_FILE)
    assert is_held(tmp_path) is None
    (tmp_path / LOCK_FILE).unlink()
    (tmp_path / LOCK_FILE).symlink_to("/dev/zero")
    assert is_held(tmp_path) is None
