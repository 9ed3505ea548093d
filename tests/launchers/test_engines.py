"""Real jobs by every engine: a command that tells the version, and one that waits to be interrupted."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_drift.launchers.job import Job, Launcher, Running
from lightning_drift.launchers.job_log import last_words, output
from lightning_drift.launchers.options import Engine, read_launcher

TELLS = ("--version",)
FAILS = ("fly",)


def engine(name: str, **options: Any) -> Engine:
    made = read_launcher({"name": name, **options}, {})
    assert made is not None
    return made


def finished(running: Running, seconds: float = 120) -> int:
    deadline = time.monotonic() + seconds
    while (status := running.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return status


def check(launcher: Launcher, folder: Path) -> None:
    """A job that succeeds and one that fails: their statuses, and what they said in their logs."""
    tells, fails = Job("tells", TELLS, Path("logs/tells.log")), Job("fails", FAILS, Path("logs/fails.log"))
    assert launcher.describe()
    jobs = [tells, fails]
    running = launcher.launch(jobs) if launcher.together else [launcher.launch([job])[0] for job in jobs]
    assert [finished(one) for one in running] == [0, 2]
    assert [one.lost for one in running] == ["", ""]
    assert output(folder / tells.log).splitlines()[-1].startswith("lightning-drift 0.")
    assert last_words(output(folder / fails.log)).startswith("'fly' is not a command")
    for one in running:
        one.interrupt()  # of what has ended, nothing
        one.end(time.monotonic())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "logs").mkdir()
    return tmp_path


def test_local(folder: Path) -> None:
    launcher = engine("local", devices="cpu,cpu").make(folder, on_cpu=True)
    check(launcher, folder)
    assert launcher.room() == launcher.places() == 2


def test_command(folder: Path) -> None:
    check(engine("command", run="sh -c {line}").make(folder, on_cpu=True), folder)


def test_a_detached_command_is_told_by_the_jobs_own_end(folder: Path) -> None:
    launcher = engine("command", run="sh -c {line} & sleep 0.1", detached=True).make(folder, on_cpu=True)
    check(launcher, folder)


def test_a_command_that_ends_before_the_job_is_lost_or_says_so(folder: Path) -> None:
    job = Job("tells", TELLS, Path("logs/tells.log"))
    for status, lost in ((255, True), (0, True), (7, False)):
        launcher = engine("command", run=f"true {{line}}; exit {status}").make(folder, on_cpu=True)
        (running,) = launcher.launch([job])
        assert finished(running) == status
        assert bool(running.lost) is lost
        assert ("status 7" in running.told) is not lost


def test_the_commands_folder_and_names_are_words_of_the_shell_whatever_they_hold(
    tmp_path: Path, monkeypatch: Any
) -> None:
    odd = tmp_path / "a 'dear' folder; touch gone"
    (odd / "logs").mkdir(parents=True)
    monkeypatch.chdir(odd)
    job = Job("it's $(touch gone)", TELLS, Path("logs/it's.log"))
    launcher = engine("command", run="sh -c {line} # {name}\necho {folder}").make(odd, on_cpu=True)
    (running,) = launcher.launch([job])
    assert finished(running) == 0
    assert "lightning-drift 0." in output(odd / job.log)
    assert not list(tmp_path.rglob("gone"))


def test_ray(folder: Path) -> None:
    launcher = engine("ray", address="local").make(folder, on_cpu=True)
    try:
        check(launcher, folder)
        assert launcher.room() is None
        assert launcher.places() == os.cpu_count()
    finally:
        launcher.close()


def test_slurms_jobs_run_as_processes_of_this_machine_to_try_them(folder: Path) -> None:
    launcher = engine("slurm", cluster="local", cpus=1).make(folder, on_cpu=True)
    check(launcher, folder)


SBATCH = """#!PYTHON
import os, pathlib, re, subprocess, sys
script = pathlib.Path(sys.argv[-1]).read_text()
place = pathlib.Path(__file__).parent
(place / "submitted.sh").write_text(script)
print("Submitted batch job 4242")
"""
SACCT = """#!PYTHON
import pathlib
place = pathlib.Path(__file__).parent
state = (place / "state").read_text()
print("JobID|State|NodeList")
for number in range(2):
    print(f"4242_{number}|{state}|node7")
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: Any) -> Path:
    """A cluster's commands as submitit calls them: they record what they are given."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, text in {"sbatch": SBATCH, "sacct": SACCT, "srun": "#!/bin/sh\n", "scancel": SCANCEL}.items():
        (place / name).write_text(text.replace("PYTHON", sys.executable))
        (place / name).chmod(0o755)
    (place / "state").write_text("PENDING")
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


SCANCEL = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/cancelled"\n'


def test_what_is_handed_to_sbatch_is_an_array_that_comes_back_after_a_preemption(
    folder: Path, cluster: Path
) -> None:
    options = {
        "partition": "gpu",
        "minutes": 90,
        "gpus": 1,
        "cpus": 6,
        "memory": 24,
        "account": "art",
        "qos": "low",
        "constraint": "a100|h100",
        "at_once": 8,
        "setup": ["module load cuda"],
        "sbatch": {"mail-type": "END"},
    }
    launcher = engine("slurm", **options).make(folder, on_cpu=False)
    assert not (folder / "slurm").exists()  # a dry run writes nothing
    jobs = [Job(f"fit{number}", TELLS, Path(f"logs/{number}.log")) for number in range(2)]
    running = launcher.launch(jobs)
    script = (cluster / "submitted.sh").read_text()
    for line in (
        "#SBATCH --array=0-1%2",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=90",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --cpus-per-task=6",
        "#SBATCH --mem=24GB",
        "#SBATCH --account=art",
        "#SBATCH --qos=low",
        "#SBATCH --constraint='a100|h100'",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --requeue",
        "#SBATCH --mail-type=END",
        "module load cuda",
    ):
        assert line in script.splitlines(), script
    assert "submitit.core._submit" in script
    assert sys.executable in script
    assert [one.place for one in running] == ["SLURM as job 4242_0", "SLURM as job 4242_1"]
    assert [one.poll() for one in running] == [None, None]

    # Whoever starts again finds the jobs that are in the queue, and hands nothing over twice.
    again = engine("slurm", **options).make(folder, on_cpu=False)
    found = [again.found(job) for job in jobs]
    assert [one is not None and one.place for one in found] == ["SLURM as job 4242_0", "SLURM as job 4242_1"]

    (folder / "slurm" / "fit0.status").write_text("0\n")
    assert running[0].poll() is None  # the job has ended, and the cluster's own part not yet
    (folder / "slurm" / "4242_0_0_result.pkl").touch()
    assert running[0].poll() == 0
    running[1].interrupt()
    assert "4242_1" in (cluster / "cancelled").read_text()
    for state, lost, told in (("NODE_FAIL", True, False), ("CANCELLED by 1000", False, True)):
        (cluster / "state").write_text(state)
        assert again.found(jobs[1]) is None
        (second,) = (one for one in launcher.launch(jobs) if one.place.endswith("_1"))
        assert finished(second) != 0
        assert (bool(second.lost), bool(second.told)) == (lost, told)


def test_a_cluster_that_is_not_there_is_a_sentence(folder: Path, monkeypatch: Any) -> None:
    from lightning_drift.common.errors import UserError

    launcher = engine("slurm").make(folder, on_cpu=False)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(UserError, match="launcher: submitit refuses: Could not detect"):
        launcher.launch([Job("fit", TELLS, Path("logs/fit.log"))])


def processes(word: str) -> list[int]:
    """The processes whose command line holds a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if word in words:
            found.append(int(path.parent.name))
    return found


def until(moment: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_a_preempted_job_of_slurm_ends_in_order_and_comes_back_as_the_same_job(folder: Path) -> None:
    mark = f"--seed_everything={os.getpid()}"
    words = ("fit", "--trainer.max_steps=100000", "--trainer.accelerator=cpu", mark)
    launcher = engine("slurm", cluster="local", cpus=1).make(folder, on_cpu=True)
    (running,) = launcher.launch([Job("fit", words, Path("logs/fit.log"))])
    log = folder / "logs/fit.log"
    try:
        until(lambda: "grid at step" in output(log))
        (fit,) = processes(mark)
        parent = int(Path(f"/proc/{fit}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGUSR2)  # as the cluster does before it takes the node away
        until(lambda: processes(mark) and processes(mark) != [fit])
        assert "stopped by Ctrl-C" in output(log)
        assert output(log).count("$ lightning-drift fit") == 2
        assert running.poll() is None
    finally:
        running.interrupt()
        running.end(time.monotonic() + 60)
    until(lambda: not processes(mark))
