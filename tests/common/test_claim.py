"""A claim on a folder: one process has it, on however many computers, whatever lies at its place."""

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_drift.common import lock as locking
from lightning_drift.common.claim import Claim, standing
from lightning_drift.common.claim_files import CLAIM, FREE
from lightning_drift.common.errors import UserError
from lightning_drift.common.holder import Holder
from lightning_drift.common.lock import LOCK_FILE, FolderLock, holder, is_held

OLD = 7200.0
"""Seconds: so long after its last beat nobody waits to see whether there is another."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / CLAIM).iterdir())


def claimed_by(place: Path, age: float = 0.0, token: str = "other-7-00112233445566ff", **about: Any) -> Path:
    """What a process of another computer, or as told, leaves in a folder it has claimed."""
    told = Holder(pid=7, host="other", since="2026-01-02 03:04:05", token=token, boot="b", start=1)
    file = place / CLAIM / f"{token}.3"
    file.parent.mkdir(exist_ok=True)
    (file.parent / FREE).unlink(missing_ok=True)
    file.write_bytes(dataclasses.replace(told, **about).content())
    os.utime(file, (time.time() - age,) * 2)
    return file


def ended() -> Holder:
    """A process of this computer that has ended."""
    code = (
        "from pathlib import Path; from lightning_drift.common.holder import Holder;"
        "print(Holder.here(Path('/')).content().decode())"
    )
    content = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    told = Holder.parse(content)
    assert told is not None
    return told


def local(told: Holder) -> dict[str, Any]:
    return {key: getattr(told, key) for key in ("pid", "host", "boot", "space", "start", "folder", "inode")}


@pytest.fixture
def without_locks(monkeypatch: Any) -> None:
    """A file system without flock."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_one_file_tells_whose_the_folder_is(tmp_path: Path) -> None:
    first = Claim(tmp_path, "run")
    (name,) = names(tmp_path)
    assert re.fullmatch(rf"[A-Za-z0-9-]+-{os.getpid()}-[0-9a-f]{{16}}\.0", name)
    told = Holder.read(tmp_path / CLAIM / name)
    assert told is not None
    assert (told.pid, name) == (os.getpid(), f"{told.token}.0")
    with pytest.raises(
        UserError, match=rf"the run .+ is being written by process {os.getpid()} on .+ since "
    ):
        Claim(tmp_path, "run")
    assert names(tmp_path) == [name]
    first.check()
    first.release()
    assert names(tmp_path) == [FREE]
    first.release()
    second = Claim(tmp_path, "run")
    second.release(leave=False)
    assert [*tmp_path.iterdir()] == []


# -- races ----------------------------------------------------------------------------------------------

RACER = """
import errno, os, sys
from pathlib import Path
from lightning_drift.common.claim import Claim
from lightning_drift.common.errors import UserError
from lightning_drift.common.lock import FolderLock
kind, place = sys.argv[1], Path(sys.argv[2])
if kind == "FolderLock without flock":
    import fcntl
    def refuse(*_): raise OSError(errno.ENOLCK, "no locks")
    fcntl.flock = refuse
make = Claim if kind == "Claim" else FolderLock
for line in sys.stdin:
    folder = place / line.strip()
    try:
        held = make(folder, "run")
    except UserError:
        held = None
    print("won" if held else "lost", flush=True)
    sys.stdin.readline()
    if held:
        held.check()
        held.release()
    print("left", flush=True)
"""


@pytest.mark.parametrize("kind", ["Claim", "FolderLock", "FolderLock without flock"])
def test_of_many_processes_that_try_at_once_one_wins(tmp_path: Path, kind: str) -> None:
    """Free folders, new ones, ones whose holder was killed, whose holder expired, copies upon copies."""
    dead = ended()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, kind, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(8)
    ]  # fmt: skip

    def say(line: str) -> list[str]:
        for racer in racers:
            racer.stdin.write(f"{line}\n")  # type: ignore[union-attr]
        for racer in racers:
            racer.stdin.flush()  # type: ignore[union-attr]
        return [racer.stdout.readline().strip() for racer in racers]  # type: ignore[union-attr]

    try:
        for number in range(200):
            folder = tmp_path / f"{number // 10}"
            folder.mkdir(exist_ok=True)
            if number % 5 == 1:
                claimed_by(folder, age=OLD)
            elif number % 5 == 2:
                claimed_by(folder, token="here-1-00112233445566ff", **local(dead))
            elif number % 5 == 3:
                claimed_by(folder, age=OLD)
                (folder / CLAIM / FREE).touch()
            answers = say(folder.name)
            assert sorted(answers) == ["lost"] * 7 + ["won"], (number, answers, names(folder))
            assert len(names(folder)) == 1, number
            say("go on")
            assert names(folder) == [FREE]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


# -- other computers ------------------------------------------------------------------------------------


def test_another_computers_claim_is_respected_until_it_expires(tmp_path: Path) -> None:
    claimed_by(tmp_path, age=40)
    sentence = (
        r"is being written by process 7 on other since 2026-01-02 03:04:05, last heard of 4\d s ago; wait "
        r"for it or stop it, or if that computer is gone, try again in 1[34]\d s$"
    )
    with pytest.raises(UserError, match=sentence):
        FolderLock(tmp_path, "run")
    assert not (tmp_path / LOCK_FILE).exists()
    assert is_held(tmp_path) is True
    assert re.match(r"process 7 on other since .+, last heard of 4\d s ago$", holder(tmp_path) or "")
    claimed_by(tmp_path, age=OLD)
    assert (is_held(tmp_path), holder(tmp_path)) == (False, None)
    lock = FolderLock(tmp_path, "run")
    assert is_held(tmp_path) is True
    assert "last heard" not in (holder(tmp_path) or "last heard")
    lock.release()
    assert (is_held(tmp_path), holder(tmp_path)) == (False, None)


@pytest.mark.parametrize("beats", [True, False])
def test_a_claim_that_expired_by_its_date_alone_is_watched_first(
    tmp_path: Path, monkeypatch: Any, capsys: Any, beats: bool
) -> None:
    """Where dates are those of the computers that write, a clock that is behind looks like a dead process."""
    theirs = claimed_by(tmp_path, age=300)

    def sleep(seconds: float) -> None:
        if beats and theirs.exists():
            theirs.rename(theirs.with_suffix(".4"))
            os.utime(theirs.with_suffix(".4"))

    monkeypatch.setattr(time, "sleep", sleep)
    if beats:
        with pytest.raises(UserError, match="process 7 on other since 2026"):
            Claim(tmp_path, "run")
    else:
        Claim(tmp_path, "run").release()
    assert (
        "to see whether process 7 on other since 2026-01-02 03:04:05 still writes" in capsys.readouterr().err
    )


def test_a_beat_in_time_is_never_overtaken(tmp_path: Path, monkeypatch: Any) -> None:
    """Between the look at an expired claim and the attempt to take it its holder has woken."""
    ours = Claim(tmp_path, "run", interval=1000)
    os.utime(ours._path, (time.time() - OLD,) * 2)
    won = Claim._won

    def late(self: Claim, theirs: Path) -> bool:
        ours._beat()
        return won(self, theirs)

    monkeypatch.setattr(Claim, "_won", late)
    with pytest.raises(UserError, match="is being written by process"):
        Claim(tmp_path, "run")
    ours.check()
    assert not ours.lost
    ours.release()
    assert names(tmp_path) == [FREE]


# -- this computer --------------------------------------------------------------------------------------


def test_a_killed_process_of_this_computer_leaves_a_free_folder(tmp_path: Path, without_locks: None) -> None:
    code = (
        "import sys; from pathlib import Path; from lightning_drift.common.claim import Claim\n"
        "claim = Claim(Path('.'), 'run'); print('held', flush=True); sys.stdin.readline()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(
        UserError, match=rf"being written by process {process.pid} on .+ since \d{{4}}-.+; wait"
    ):
        FolderLock(tmp_path, "run")
    process.send_signal(signal.SIGKILL)
    if sys.platform == "linux":  # not waited for yet: its number is there still
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_held(tmp_path) is False
    process.communicate()
    assert is_held(tmp_path) is False
    FolderLock(tmp_path, "run").release()
    assert names(tmp_path) == [FREE]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process was started")
def test_another_process_with_the_number_of_the_holder_is_not_taken_for_it(tmp_path: Path) -> None:
    here = Holder.here(tmp_path)
    claimed_by(tmp_path, **local(here))
    assert is_held(tmp_path) is True
    claimed_by(tmp_path, **local(here) | {"start": (here.start or 0) - 1})
    assert is_held(tmp_path) is False
    Claim(tmp_path, "run").release()
    claimed_by(tmp_path, **local(here) | {"start": (here.start or 0) - 1, "boot": "an earlier start"})
    with pytest.raises(UserError, match="last heard of"):  # its clock's start is another's
        Claim(tmp_path, "run")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such containers")
def test_a_lock_of_another_container_that_is_free_ends_its_claim(tmp_path: Path) -> None:
    told = local(Holder.here(tmp_path)) | {"space": "pid:[1]"}
    claimed_by(tmp_path, **told)
    with pytest.raises(UserError, match="last heard of"):
        FolderLock(tmp_path, "run")
    claimed_by(tmp_path, **told, locked=True)
    with pytest.raises(UserError, match="last heard of"):
        Claim(tmp_path, "run")
    FolderLock(tmp_path, "run").release()


def test_a_forked_process_has_no_claim(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, "run")
    before = names(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the thread, which the child has not
        child = os.fork()
    if child == 0:
        try:
            lock.check()
            lock.release()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(tmp_path) == before
    assert (tmp_path / LOCK_FILE).exists()
    lock.check()
    lock.release()


def test_what_tells_of_a_former_holder_is_not_believed(tmp_path: Path, without_locks: None) -> None:
    """A process that has just taken over an ended one's claim has not yet written who it is."""
    dead = claimed_by(tmp_path, **local(ended()))
    dead.rename(dead.with_name("new-9-ffeeddccbbaa9988.0"))
    with pytest.raises(UserError, match="is being written by process 9 on new, last heard of"):
        FolderLock(tmp_path, "run")


@pytest.mark.parametrize("kind", ["free", "expired"])
def test_a_claim_is_young_from_its_first_moment(tmp_path: Path, monkeypatch: Any, kind: str) -> None:
    """The file that is renamed may be old; whoever comes next must not take it for expired."""
    if kind == "free":
        Claim(tmp_path, "run").release()
        os.utime(tmp_path / CLAIM / FREE, (5, 5))
    else:
        claimed_by(tmp_path, age=OLD)
    rename, others = Claim._rename, []

    def followed(self: Claim, before: Path, after: Path) -> None:
        rename(self, before, after)
        if not others:
            others.append("tried")
            with pytest.raises(UserError, match=rf"is being written by process {os.getpid()} on "):
                Claim(tmp_path, "run")

    monkeypatch.setattr(Claim, "_rename", followed)
    claim = Claim(tmp_path, "run")
    assert others
    claim.check()
    claim.release()


# -- losing it ------------------------------------------------------------------------------------------


def test_a_beat_is_seen(tmp_path: Path) -> None:
    claim = Claim(tmp_path, "run", interval=0.01)
    deadline = time.monotonic() + 60
    while names(tmp_path)[0].endswith((".0", ".1")) and time.monotonic() < deadline:
        time.sleep(0.01)
    claim.release()
    assert abs((tmp_path / CLAIM / FREE).stat().st_mtime - time.time()) < 100


def asleep(folder: Path, **options: Any) -> Claim:
    """A claim whose process has slept for hours, with its thread."""
    claim = Claim(folder, "run", **options)
    claim._stop.set()
    claim._thread.join()
    os.utime(claim._path, (time.time() - OLD,) * 2)
    claim._beaten._steady -= OLD
    return claim


def test_who_wakes_and_has_lost_it_is_told_by_whom_and_leaves_all_as_it_is(tmp_path: Path) -> None:
    slept = asleep(tmp_path)
    other = Claim(tmp_path, "run")
    sentence = (
        r"the run .+ is this process's no more: its claim was not renewed for 72\d\d s and was taken over, "
        rf"and process {os.getpid()} on .+ since .+ holds it now; this process ends without writing there$"
    )
    for _ in range(2):
        with pytest.raises(UserError, match=sentence):
            slept.check()
    assert slept.lost
    slept.release()
    other.check()
    other.release()


def test_who_wakes_and_was_not_missed_goes_on(tmp_path: Path) -> None:
    slept = asleep(tmp_path)
    slept.check()
    assert is_held(tmp_path) is True
    with pytest.raises(UserError, match="being written"):
        Claim(tmp_path, "run")
    slept.release()


def test_who_wakes_after_the_other_has_ended_has_lost_it_too(tmp_path: Path) -> None:
    slept = asleep(tmp_path)
    Claim(tmp_path, "run").release()
    with pytest.raises(UserError, match="nobody holds it now"):
        slept.check()
    slept.release()
    assert names(tmp_path) == [FREE]


def test_a_folder_that_is_gone_is_lost(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    slept = asleep(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match="no more"):
        slept.check()
    slept.release()


def test_a_clock_that_was_set_after_a_pause_makes_it_look(tmp_path: Path) -> None:
    """A paused virtual machine's steady clock stands still; it is told the time when it goes on."""
    slept = asleep(tmp_path)
    slept._beaten._steady += OLD
    slept._beaten._wall -= OLD
    Claim(tmp_path, "run")
    with pytest.raises(UserError, match="no more"):
        slept.check()


def test_a_beat_that_fails_is_tried_again_and_told_only_when_the_claim_may_be_lost(
    tmp_path: Path, monkeypatch: Any
) -> None:
    claim = Claim(tmp_path, "run", interval=1000, expiry=10_000)
    rename, faults = os.rename, [1]

    def failing(*paths: Any) -> None:
        if faults:
            raise OSError(errno.EIO, "Input/output error")
        rename(*paths)

    monkeypatch.setattr(os, "rename", failing)
    claim._beaten._steady -= 4000
    claim.check()
    claim._beaten._steady -= 4000
    with pytest.raises(
        UserError, match=r"could not renew its claim on the run .+ for 80\d\d s \(Input/output"
    ):
        claim.check()
    faults.clear()
    claim.check()
    claim.release()
    assert names(tmp_path) == [FREE]


def test_a_rename_whose_answer_was_lost_is_done(tmp_path: Path, monkeypatch: Any) -> None:
    """A file server that is asked again says that the former name is not there."""
    rename = os.rename

    def twice(*paths: Any) -> None:
        rename(*paths)
        rename(*paths)

    (tmp_path / CLAIM).mkdir()
    (tmp_path / CLAIM / FREE).touch()
    monkeypatch.setattr(os, "rename", twice)
    claim = Claim(tmp_path, "run", interval=1000)
    claim._beat()
    claim._beaten._steady -= OLD
    claim.check()
    assert not claim.lost
    monkeypatch.setattr(os, "rename", rename)
    claim.release()


# -- copies ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a copy is free when its date is old")
def test_a_copy_of_a_held_folder_is_free_and_a_moved_one_is_not(tmp_path: Path) -> None:
    original, copy, moved = tmp_path / "run", tmp_path / "copy", tmp_path / "moved"
    original.mkdir()
    lock = FolderLock(original, "run")
    shutil.copytree(original, copy)
    assert is_held(copy) is False
    other = FolderLock(copy, "run")
    shutil.copytree(original, copy, dirs_exist_ok=True)  # once more, over it: two files
    assert len(names(copy)) == 2
    other.release()
    shutil.copytree(original, copy, dirs_exist_ok=True)
    FolderLock(copy, "run").release()
    assert names(copy) == [FREE]
    lock.check()
    original.rename(moved)
    assert is_held(moved) is True
    with pytest.raises(UserError, match="being written"):
        Claim(moved, "run")
    moved.rename(original)
    lock.check()
    lock.release()


# -- what else may lie there ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", ["file", "link", "dangling", "fifo", "link inside", "folder inside", "fifo inside", "many"]
)
def test_what_is_no_claim_is_refused_and_left_alone(tmp_path: Path, what: str) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / FREE).write_text("mine")
    os.utime(outside / FREE, (5, 5))
    place = folder / CLAIM
    inside = place / FREE
    if what in ("link inside", "folder inside", "fifo inside", "many"):
        place.mkdir()
    if what == "file":
        place.write_text("mine")
    elif what in ("link", "dangling"):
        place.symlink_to(outside if what == "link" else tmp_path / "nowhere")
    elif what == "fifo":
        os.mkfifo(place)
    elif what == "link inside":
        inside.symlink_to(outside / FREE)
    elif what == "folder inside":
        inside.mkdir()
    elif what == "fifo inside":
        os.mkfifo(place / "other-7-00112233445566ff.0")
    else:
        for number in range(1001):
            (place / f"{number}").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"\.claim.* is none of this program's; move it away and start again"):
        FolderLock(folder, "run")
    assert sorted(tmp_path.rglob("*")) == before
    assert (outside / FREE).read_text() == "mine"
    assert (outside / FREE).stat().st_mtime == 5
    assert (is_held(folder), holder(folder)) == (False, None)  # nothing claims it, and there is no lock


@pytest.mark.parametrize("name", ["a b", "x\ny", "ünïcode 🦊", "-rf", "<b>", "x" * 200, "free.0", "other.9"])
def test_a_claim_of_any_name_expires(tmp_path: Path, name: str) -> None:
    (tmp_path / CLAIM).mkdir()
    file = tmp_path / CLAIM / name
    file.touch()
    with pytest.raises(UserError, match="is being written by another process, last heard of"):
        Claim(tmp_path, "run")
    assert is_held(tmp_path) is True
    os.utime(file, (time.time() - OLD,) * 2)
    Claim(tmp_path, "run").release()
    assert names(tmp_path) == [FREE]


_FIELDS = ["pid", "host", "since", "token", "boot", "space", "start", "folder", "inode", "locked"]
_VALUES = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=9), st.lists(st.integers(), max_size=2)
)


@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.dictionaries(st.sampled_from(_FIELDS), _VALUES).map(lambda about: json.dumps(about).encode()),
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_content_of_any_kind_is_borne(tmp_path: Path, content: bytes) -> None:
    claimed_by(tmp_path).write_bytes(content)
    assert is_held(tmp_path) is True
    with pytest.raises(UserError, match="process 7 on other, last heard of"):
        Claim(tmp_path, "run")


def test_a_huge_file_is_read_in_part(tmp_path: Path) -> None:
    file = claimed_by(tmp_path)
    with open(file, "ab") as grown:
        grown.truncate(2**40)
    assert is_held(tmp_path) is True
    os.utime(file, (time.time() - OLD,) * 2)
    Claim(tmp_path, "run").release()
    assert (tmp_path / CLAIM / FREE).stat().st_size < 10_000


def test_files_of_the_system_beside_it_count_for_nothing(tmp_path: Path) -> None:
    Claim(tmp_path, "run").release()
    (tmp_path / CLAIM / ".nfs000000000001").touch()
    Claim(tmp_path, "run").release()
    assert names(tmp_path) == [".nfs000000000001", FREE]


def test_an_emptied_claim_is_made_again(tmp_path: Path) -> None:
    (tmp_path / CLAIM).mkdir()
    Claim(tmp_path, "run").release()
    assert names(tmp_path) == [FREE]
    assert [path.name for path in tmp_path.iterdir()] == [CLAIM]


# -- with the system's lock -----------------------------------------------------------------------------


def test_without_the_systems_locks_the_claim_holds_alone(
    tmp_path: Path, without_locks: None, capsys: Any
) -> None:
    lock = FolderLock(tmp_path, "run")
    with pytest.raises(UserError, match="being written by process"):
        FolderLock(tmp_path, "run")
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == [CLAIM]
    assert is_held(tmp_path) is False
    FolderLock(tmp_path, "run").release()
    assert capsys.readouterr().err == ""


def test_with_neither_a_notice_says_so(
    tmp_path: Path, without_locks: None, monkeypatch: Any, capsys: Any
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "rename", refuse)
    FolderLock(tmp_path, "run").release()
    assert "cannot be locked (no locks available): let no second process write" in capsys.readouterr().err
    monkeypatch.undo()
    FolderLock(tmp_path, "run").release()
    assert capsys.readouterr().err == ""


def test_looking_changes_nothing(tmp_path: Path) -> None:
    claimed_by(tmp_path, age=OLD)
    before = {path: path.stat() for path in (tmp_path, *tmp_path.rglob("*"))}
    assert (is_held(tmp_path), holder(tmp_path), standing(tmp_path)) == (False, None, (False, ""))
    assert {path: path.stat().st_mtime_ns for path in before} == {
        path: status.st_mtime_ns for path, status in before.items()
    }
    assert sorted(before) == sorted((tmp_path, *tmp_path.rglob("*")))
    assert locking.OWN == (LOCK_FILE, CLAIM)
