"""Files are whole at their final name, whoever else writes them, and whatever ends the writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.overlap import write_meanwhile

from lightning_drift.common.atomic import atomic_link, atomic_write, private_folder, remove_abandoned

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
PARTIAL = "{}.lightning-drift-{}.partial"
ATOMIC = "import os, sys\nfrom lightning_drift.common.atomic import *\n"


def write(path: Path, letter: bytes, size: int) -> None:
    with atomic_write(path) as file:
        file.write(letter * size)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def begin(code: str, *arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", ATOMIC + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


HALF = """
with atomic_write(sys.argv[1]) as file:
    file.write(b"x" * 100); file.flush(); print("half", flush=True); sys.stdin.read()
"""


def half_written(path: Path, code: str = HALF) -> "subprocess.Popen[bytes]":
    process = begin(code, path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    return process


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@forks
@pytest.mark.parametrize(("mine", "others"), [(1000, 10), (10, 1000)])
def test_writers_of_one_name_do_not_disturb_each_other(
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
    assert names(path.parent) == ["file"]


def test_no_read_of_a_name_that_two_processes_write_is_torn(tmp_path: Path) -> None:
    code = """
path, letter = sys.argv[1], sys.argv[2].encode()
print("ready", flush=True)
sys.stdin.readline()
for count in range(400):
    with atomic_write(path) as file:
        for _ in range(20):
            file.write(letter * (1000 + count)); file.flush()
"""
    path = tmp_path / "file"
    write(path, b"z", 20_000)
    writers = [begin(code, path, letter) for letter in "ab"]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.readline()
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    seen, reads = set(), 0
    while reads < 3000 or any(writer.poll() is None for writer in writers):
        data = path.read_bytes()
        reads += 1
        seen.add(data[:1])
        assert data == data[:1] * len(data), "bytes of two writers"
        assert len(data) % 20 == 0, "the end is missing"
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen >= {b"a", b"b"}
    assert names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_deleted_by_the_next_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    """A checkpoint takes gigabytes: the half of one may lie there once, not once per attempt."""
    path = tmp_path / "last.ckpt"
    for _ in range(2):
        kill(half_written(path))
        assert names(tmp_path) == [PARTIAL.format("last.ckpt", 0)]
    first, alive, third = (half_written(path) for _ in range(3))
    kill(first)
    kill(third)
    assert len(names(tmp_path)) == 3
    write(path, b"y", 10)
    assert names(tmp_path) == ["last.ckpt", PARTIAL.format("last.ckpt", 1)]
    assert path.read_bytes() == b"y" * 10
    assert alive.communicate()[0] == b""
    assert alive.returncode == 0
    assert names(tmp_path) == ["last.ckpt"]
    assert path.read_bytes() == b"x" * 100


def test_a_killed_process_leaves_one_folder_which_the_next_deletes(tmp_path: Path) -> None:
    code = """
with private_folder(sys.argv[1]) as folder:
    (folder / "part").write_text("x"); print("half", flush=True); sys.stdin.read()
"""
    killed, alive = half_written(tmp_path / "model", code), half_written(tmp_path / "model", code)
    kill(killed)
    with private_folder(tmp_path / "model") as folder:
        assert names(tmp_path) == [PARTIAL.format("model", number) for number in (0, 1)]
        assert names(folder) == []
    assert names(tmp_path) == [PARTIAL.format("model", 1)]
    alive.communicate()
    assert names(tmp_path) == []


def test_symbolic_links_in_the_place_of_partial_files_are_not_followed(tmp_path: Path) -> None:
    folder, victim = tmp_path / "folder", tmp_path / "victim"
    folder.mkdir()
    victim.write_bytes(b"mine")
    links = ["f.partial", f"f.{os.getpid()}.partial", *(PARTIAL.format("f", number) for number in range(3))]
    for name in links:
        (folder / name).symlink_to(victim)
    write(folder / "f", b"a", 3)
    atomic_link(folder / "f", folder / "g")
    assert victim.read_bytes() == b"mine"
    assert names(folder) == sorted(["f", "g", *links])


def test_a_link_at_the_final_name_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "f").symlink_to(tmp_path / "victim")
    write(tmp_path / "f", b"a", 3)
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert (tmp_path / "f").read_bytes() == b"aaa"


def test_a_neighbour_called_partial_is_left_alone(tmp_path: Path) -> None:
    for name in ("f.partial", "f.0.partial", "f.tmp"):
        (tmp_path / name).write_text("mine")
    write(tmp_path / "f", b"a", 3)
    with private_folder(tmp_path / "f"):
        pass
    assert all((tmp_path / name).read_text() == "mine" for name in ("f.partial", "f.0.partial", "f.tmp"))


@pytest.mark.parametrize("name", ["f" * 250, "é" * 120])
def test_a_name_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"a", 3)
    assert names(tmp_path) == [name]


def test_a_link_is_made_anew_each_time(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / "step", b"a", 3 + number)
        for _ in range(2):
            atomic_link(tmp_path / "step", tmp_path / "last")
        assert (tmp_path / "last").read_bytes() == b"a" * (3 + number)
    assert names(tmp_path) == ["last", "step"]


def test_an_error_leaves_the_previous_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"a", 3)
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.writelines([b"b", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"aaa"
    assert names(tmp_path) == ["file"]


def test_a_write_that_fails_half_way_leaves_the_previous_file(tmp_path: Path) -> None:
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with atomic_write(sys.argv[1]) as file:
        file.write(b"b" * 100_000)
except OSError as error:
    print(error.strerror)
"""
    write(tmp_path / "file", b"a", 3)
    assert begin(code, tmp_path / "file").communicate()[0] == b"File too large\n"
    assert (tmp_path / "file").read_bytes() == b"aaa"
    assert names(tmp_path) == ["file"]


def test_what_killed_writers_left_does_not_count_as_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    killed, alive = half_written(path), half_written(path)
    kill(killed)
    remove_abandoned(path)
    assert names(tmp_path) == [PARTIAL.format("last.ckpt", 1)]
    alive.communicate()
    assert names(tmp_path) == ["last.ckpt"]
