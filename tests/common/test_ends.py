"""Signals as the code between hears them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_drift.common import ends


def test_a_signal_is_raised_where_it_is_heard_and_after_what_is_held() -> None:
    former, seen = signal.getsignal(signal.SIGTERM), []

    def hold() -> None:
        with ends.held(), ends.held():
            signal.raise_signal(signal.SIGTERM)
            seen.append("held")

    with ends.listening("", own_process=False):
        with pytest.raises(ends.Ended, match="stopped by SIGTERM") as told:
            hold()
        assert told.value.status == 143
        assert seen == ["held"]
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_signal_that_a_destructor_swallows_comes_back() -> None:
    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with ends.listening("", own_process=False), pytest.raises(ends.Ended):
        _drop(Swallows())


def _drop(thing: object) -> None:
    del thing
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pass


def test_what_a_shell_ignores_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with ends.listening("", own_process=False):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)


_SLOW_TO_END = """
import time
from pathlib import Path
from lightning_drift.common import ends
with ends.listening("never", own_process=True):
    ends.begin()
    try:
        Path("ready").touch()
        time.sleep(600)
    finally:
        Path("ending").touch()
        {meanwhile}
        Path("done").touch()
"""


def _wait_for(name: str) -> None:
    deadline = time.monotonic() + 60
    while not Path(name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _first_signal(number: int, meanwhile: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_TO_END.format(meanwhile=meanwhile)],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _wait_for("ready")
    process.send_signal(number)
    _wait_for("ending")
    return process


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process = _first_signal(signal.SIGINT, "time.sleep(600)")
    while process.poll() is None:  # a repetition within a tenth of a second counts as one
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert process.wait() == -signal.SIGINT
    assert not Path("done").exists()


def test_a_signal_that_its_sender_repeats_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = _first_signal(signal.SIGTERM, "import signal; signal.raise_signal(signal.SIGTERM)")
    process.wait(60)
    assert Path("done").exists()
