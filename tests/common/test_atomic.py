"""Files are whole at their final name, whoever else writes them, and whatever ends the writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.overlap import write_meanwhile

from lightning_drift.common.atomic import atomic_write

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def write(path: Path, letter: bytes, size: int, shared: bool = True) -> None:
    with atomic_write(path, shared=shared) as file:
        file.write(letter * size)


@forks
@pytest.mark.parametrize(("mine", "others"), [(1000, 10), (10, 1000)])
def test_writers_of_a_shared_name_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: int, others: int
) -> None:
    path = tmp_path / "cache" / "file"
    seen = []

    def other() -> None:
        write(path, b"o", others)
        seen.append(path.read_bytes())
        assert seen == [b"o" * others]

    write_meanwhile(monkeypatch, other)
    write(path, b"m", mine)
    assert path.read_bytes() == b"m" * mine  # whole, and of the one that finished last
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_overwritten_by_the_next(tmp_path: Path) -> None:
    """A checkpoint takes gigabytes: the half of one may lie there once, not once per attempt."""
    path = tmp_path / "last.ckpt"
    code = "import sys; from lightning_drift.common.atomic import atomic_write\n"
    code += "with atomic_write(sys.argv[1]) as file:\n"
    code += "    file.write(b'x' * 100); file.flush(); print('half', flush=True); sys.stdin.read()"
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt.partial"]
    write(path, b"y", 10, shared=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
    assert path.read_bytes() == b"y" * 10


def test_an_error_leaves_the_previous_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"a", 3)
    for shared in (False, True):
        with pytest.raises(TypeError), atomic_write(path, shared=shared) as file:
            file.writelines([b"b", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"aaa"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
