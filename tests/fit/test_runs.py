"""A run has one owner, and is found where its configuration lies."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import OPTIONS, finish, scalars, start, started
from helpers.paths import DATA
from lightning.pytorch import Callback

from lightning_drift.cli import main
from lightning_drift.common.claim import Claim
from lightning_drift.common.claim_files import CLAIM
from lightning_drift.common.errors import UserError
from lightning_drift.common.lock import LOCK_FILE, FolderLock
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.runs import claim_run, run_beside
from lightning_drift.lightning_cli import HearsEnds

TINY = f"--model.pipeline={DATA / 'tiny_sd'}"
SHORT = [
    "--trainer.max_steps=4",
    "--step_checkpoint.steps=2",
    "--seed_grid.steps=0",
    "--clip_drift.clip=null",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    monkeypatch.delenv("LIGHTNING_DRIFT_RUN", raising=False)
    yield
    while started:
        started.pop().kill()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any) -> Path:
    """The run folder of a short fit."""
    folder = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "-m", "lightning_drift", "fit", TINY, *OPTIONS, *SHORT]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    (run,) = (folder / "tb_logs" / "coffee").iterdir()
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["archive/coffee/lr1e-4_000", "here", "other/cup/first try"])
def test_a_copied_run_goes_on_where_it_lies(finished: Path, tmp_path: Path, place: str, capsys: Any) -> None:
    copy, before = tmp_path / place, files(finished)
    shutil.copytree(finished, copy)
    status = main(["fit", "-c", f"{place}/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "5"])
    assert status == 0, capsys.readouterr().err
    assert f"going on at step 4 in {copy}" in capsys.readouterr().err
    assert read_checkpoint(copy / "checkpoints" / "last.ckpt")["global_step"] == 5
    assert files(finished) == before
    assert not (tmp_path / "tb_logs" / "coffee").exists()
    assert [step for step, _ in scalars(copy)["train/loss"]] == [1, 2, 3, 4, 5]


def test_names_beside_a_runs_configuration_lead_elsewhere(finished: Path, tmp_path: Path) -> None:
    before, last = files(finished), str(finished / "checkpoints" / "last.ckpt")
    words = ["--ckpt_path", last, "--trainer.max_steps=5", "--trainer.logger.init_args.version=branch"]
    assert main(["fit", "-c", str(finished / "config.yaml"), *words]) == 0
    assert files(finished) == before
    assert (tmp_path / "tb_logs" / "coffee" / "branch" / "checkpoints" / "last.ckpt").is_file()


def test_a_configuration_alone_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    assert run_beside([tmp_path / "config.yaml"]) is None
    (tmp_path / "checkpoints").mkdir()
    assert run_beside([tmp_path / "config.yaml", tmp_path / "other.yaml"]) == tmp_path
    assert run_beside([tmp_path / "other.yaml"]) is None


def test_last_is_looked_for_where_the_run_saves(tmp_path: Path) -> None:
    options = [TINY, *OPTIONS, *SHORT, f"--step_checkpoint.dirpath={tmp_path / 'big disk'}"]
    assert main(["fit", *options]) == 0
    (run,) = (tmp_path / "tb_logs" / "coffee").iterdir()
    words = ["-c", f"{run}/config.yaml", "--ckpt_path", "last", "--trainer.max_steps=5"]
    assert main(["fit", *words]) == 0
    assert read_checkpoint(tmp_path / "big disk" / "last.ckpt")["global_step"] == 5


def test_fresh_fits_never_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lightning_drift.fit.runs import claim_run\n"
        "sys.stdin.readline()\n"
        "print(claim_run(Path('logs'), None, None, None, ('cup', 'lr1e-4')).run.name, flush=True)\n"
        "sys.stdin.readline()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:  # all have loaded what they need once they wait for this line
        process.stdin.write("\n")
        process.stdin.flush()
    names = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("\n", timeout=60)
    assert sorted(names) == [f"lr1e-4_{number:03d}" for number in range(3)]


def test_a_second_process_is_told_who_writes_the_run_and_damages_nothing(tmp_path: Path) -> None:
    first = start(tmp_path, TINY, *OPTIONS, "--trainer.max_steps=100", "--seed_grid.steps=0")
    while not (saved := list(tmp_path.glob("tb_logs/coffee/*/checkpoints/last.ckpt"))):
        assert first.poll() is None
        time.sleep(0.05)
    run = saved[0].parent.parent
    words = ["fit", "-c", str(run / "config.yaml"), "--ckpt_path", "last"]
    second = subprocess.run(
        [sys.executable, "-m", "lightning_drift", *words], capture_output=True, text=True, timeout=120
    )
    assert first.poll() is None, "the first fit was to be at work still"
    assert second.returncode == 2
    assert f"{run.relative_to(tmp_path)} is being written by process {first.pid} on " in second.stderr
    assert "; wait for it or stop it" in second.stderr
    finish(first, tmp_path)
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert [step for step, _ in scalars(run)["train/loss"]] == list(range(1, 101))
    assert not (run / LOCK_FILE).exists()
    assert main([*words, "--trainer.max_steps=101"]) == 0  # the lock ended with its process


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lightning_drift.common.lock import FolderLock\n"
        "lock = FolderLock(Path('.'), 'run'); print('held', flush=True); sys.stdin.readline()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"being written by process {process.pid} on .+ since \d{{4}}-"):
        FolderLock(tmp_path, "run")
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK_FILE).exists()
    lock = FolderLock(tmp_path, "run")
    with pytest.raises(UserError, match="being written by process"):
        FolderLock(tmp_path, "run")
    lock.release()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_lock_file_of_any_content_makes_a_sentence(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, "run")
    for content in (b"", b"{}", b"[1]", b"\xff", b'{"pid": "x", "host": 3, "since": null}', b"[" * 5000):
        (tmp_path / LOCK_FILE).write_bytes(content)
        with pytest.raises(UserError, match="being written by another process"):
            FolderLock(tmp_path, "run")
    lock.release()


def test_of_a_run_that_cannot_begin_nothing_stays(tmp_path: Path, capsys: Any) -> None:
    assert main(["fit", TINY, "--data.instance_dir=nowhere"]) == 2
    assert not (tmp_path / "tb_logs").exists()
    claimed = claim_run(tmp_path / "logs", "cup", None, None, ("cup", "lr1e-4"))
    (claimed.run.folder / "notes.txt").write_text("mine")
    claimed.leave()
    assert (claimed.run.folder / "notes.txt").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--trainer.logger.init_args.version=../x"],
            "trainer.logger.init_args.version: '..' is not a file's name",
        ),
        (
            ["--trainer.logger.init_args.version=."],
            "trainer.logger.init_args.version: '.' is not a file's name",
        ),
        (
            ["--trainer.logger.init_args.version=/tmp/x"],
            "trainer.logger.init_args.version: '/tmp/x' is a path; give a name",
        ),
        (
            ["--trainer.logger.init_args.name=../n"],
            "trainer.logger.init_args.name: '..' is not a file's name",
        ),
        (
            ["--trainer.logger.init_args.save_dir=taken"],
            "trainer.logger.init_args.save_dir: cannot write to ",
        ),
        (
            ["--trainer.logger.init_args.save_dir=/proc/x"],
            "trainer.logger.init_args.save_dir: cannot write to ",
        ),
        (["--step_checkpoint.dirpath=taken"], "step_checkpoint.dirpath: cannot write to taken"),
        (["--step_checkpoint.dirpath=/proc/x"], "step_checkpoint.dirpath: cannot write to /proc/x"),
    ],
)
def test_places_are_tried_before_anything_is_loaded(
    words: list[str], sentence: str, capsys: Any, tmp_path: Path
) -> None:
    Path("taken").write_text("a file")
    assert main(["fit", "--model.pipeline=not/loaded", *words]) == 2
    assert f"error: {sentence}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_home_folder_is_one_place_however_it_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    Path("save.yaml").write_text(
        "trainer: {logger: {class_path: TensorBoardLogger, init_args: {save_dir: ~/logs}}}\n"
    )
    for _ in range(2):
        monkeypatch.delenv("LIGHTNING_DRIFT_RUN", raising=False)
        assert main(["fit", "-c", "save.yaml", TINY, *OPTIONS, *SHORT, "--trainer.max_steps=1"]) == 0
    runs = sorted((tmp_path / "home" / "logs" / "coffee").iterdir())
    assert [run.name for run in runs] == ["lr1e-4_000", "lr1e-4_001"]
    assert all(len(list(run.glob("events.out.tfevents.*"))) == 1 for run in runs)
    assert not Path("~").exists()


@pytest.mark.parametrize(("when", "every", "saved"), [("step", 0, 0), ("step", 1, 1), ("save", 1, 1)])
def test_a_fit_that_slept_and_lost_its_run_writes_nothing_more(
    tmp_path: Path, monkeypatch: Any, capsys: Any, when: str, every: int, saved: int
) -> None:
    """Between steps, before a checkpoint or while it is written: it sleeps for hours, and another goes on."""
    fits: list[Claim] = []
    init = Claim.__init__

    def noted(self: Claim, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        fits.append(self)

    def sleep() -> dict[str, bytes]:
        slept = fits[0]
        slept._stop.set()
        slept._thread.join()
        os.utime(slept._path, (time.time() - 7200,) * 2)
        slept._beaten._steady -= 7200
        Claim(slept.folder, "run")
        return files(slept.folder)

    left: list[dict[str, bytes]] = []

    class Sleeper(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if when == "step" and trainer.global_step == 2 and not left:
                left.append(sleep())

    save = torch.save

    def slow(checkpoint: Any, file: Any) -> None:
        save(checkpoint, file)
        if when == "save" and checkpoint["global_step"] == 2 and not left:
            left.append(sleep())

    monkeypatch.setattr(Claim, "__init__", noted)
    monkeypatch.setattr(torch, "save", slow)
    monkeypatch.setattr("lightning_drift.lightning_cli.HearsEnds", type("Both", (HearsEnds, Sleeper), {}))
    steps = ["--step_checkpoint.steps=4", f"--step_checkpoint.last_every_n_steps={every}"]
    words = [TINY, *OPTIONS, *SHORT, *steps]
    assert main(["fit", *words]) == 2
    err = capsys.readouterr().err
    assert re.search(
        r"error: the run \S+ is this process's no more: its claim was not renewed for 72\d\d s and was taken "
        rf"over, and process {os.getpid()} on .+ holds it now; this process ends without writing there$",
        err,
        re.MULTILINE,
    )
    (run,) = (tmp_path / "tb_logs" / "coffee").iterdir()
    (before,), after = left, files(run)
    checkpoints = [*run.glob("checkpoints/*.ckpt")]
    assert [read_checkpoint(path)["global_step"] for path in checkpoints] == [saved] * bool(saved)

    def lasting(listed: dict[str, bytes]) -> dict[str, bytes]:
        # What was logged before the sleep comes to the fit's own event file at its end; no other opens that.
        passing = ("events.out.tfevents.", LOCK_FILE, CLAIM)
        return {
            name: content
            for name, content in listed.items()
            if not name.startswith(passing) and not name.endswith(".partial")
        }

    assert lasting(after) == lasting(before)
    fits[1].check()
    fits[1].release()


def test_a_claim_changes_no_bit_of_a_checkpoint(finished: Path) -> None:
    checkpoint = read_checkpoint(finished / "checkpoints" / "last.ckpt")
    assert not any("KeepsRun" in name for name in checkpoint["callbacks"])


def test_a_run_that_never_began_leaves_no_folder_and_one_that_is_refused_all(
    tmp_path: Path,
) -> None:
    claimed = claim_run(tmp_path / "logs", "cup", "mine", None, ("cup", "lr1e-4"))
    before = files(tmp_path / "logs")
    with pytest.raises(UserError, match="being written by process"):
        claim_run(tmp_path / "logs", "cup", "mine", None, ("cup", "lr1e-4"))
    assert files(tmp_path / "logs") == before
    (claimed.run.folder / "events.out.tfevents.1").touch()
    claimed.leave(begun=False)
    assert not (tmp_path / "logs").exists()


def test_the_folder_of_a_claim_alone_holds_no_run(tmp_path: Path) -> None:
    run = tmp_path / "logs" / "cup" / "mine"
    run.mkdir(parents=True)
    FolderLock(run, "run").release()
    assert [path.name for path in run.iterdir()] == [".claim"]
    claimed = claim_run(tmp_path / "logs", "cup", "mine", None, ("cup", "lr1e-4"))
    assert claimed.run.folder == run
    claimed.leave()
