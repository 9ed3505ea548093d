"""A corridor as a person runs it: real fits of the tiny model, stopped, killed and gone on with."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.corridors import end_corridors, say, start_corridor, until
from helpers.paths import DATA

from lightning_drift.common.errors import UserError
from lightning_drift.corridor.fit_queue import FitQueue
from lightning_drift.corridor.fits import Fit
from lightning_drift.corridor.plan import Plan, Row, make_plan, take_up
from lightning_drift.corridor.read import read
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.launchers.local import LocalLauncher, LocalRunning, find_slots, refuse_invisible
from lightning_drift.launchers.queue import Answer

OPTIONS = [
    f"--model.pipeline={DATA / 'tiny_sd'}",
    "--model.log_every_n_steps=1",
    "--seed_grid.num_inference_steps=1",
    "--seed_grid.groups={dream: {prompts: 'a tree, a moon', seeds: 0-1}}",
]
CORRIDOR = Path("tb_logs/coffee/corridor")


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    end_corridors()


def corridor(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    return start_corridor(folder, *OPTIONS, *options)


def test_a_corridor_stopped_and_killed_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    place, said = tmp_path / CORRIDOR, tmp_path / "said.txt"
    options = (
        "--lr=2e-4,1e-4",
        "--steps=2,30",
        "--devices=cpu,cpu",
        "--step_checkpoint.last_every_n_steps=1",
    )
    first = corridor(tmp_path, *options)
    until(first, lambda: (place / "lr1e-4/checkpoints/last.ckpt").exists(), tmp_path)
    first.send_signal(signal.SIGINT)
    assert first.wait(120) == 130
    assert "stopped; go on with: lightning-drift corridor --model.pipeline=" in said.read_text()
    assert "--lr=2e-4,1e-4 --steps=2,30" in said.read_text()
    lasts = {name: place / name / "checkpoints" / "last.ckpt" for name in ("lr1e-4", "lr2e-4")}
    reached = {
        name: int(read_checkpoint(last)["global_step"]) if last.exists() else 0
        for name, last in lasts.items()
    }
    assert 1 <= reached["lr1e-4"] < 30
    assert (place / "corridor.html").exists()

    # Killed without warning, it leaves its fits running; the next one neither disturbs nor repeats them.
    said.write_text("")
    second = corridor(tmp_path, *options)
    until(second, lambda: "lr 1e-4: fitting from step" in said.read_text(), tmp_path)
    second.kill()
    second.wait()
    third = corridor(tmp_path, *options)
    assert third.wait(240) == 0, said.read_text()

    table = read(place)
    assert {cell.state for cell in table.cells.values()} == {"not measured"}
    for run in table.runs:
        steps = [step for step, _ in run.scalars["train/loss"]]
        assert steps == list(range(1, 31))
        assert int(read_checkpoint(run.folder / "checkpoints" / "step=00030.ckpt")["global_step"]) == 30
        assert (run.folder / "grids" / "step=00030" / "a-tree-a-moon_seed0001.png").exists()

    plan = Plan(tmp_path / "tb_logs", "coffee", "corridor", (1e-4, 2e-4), (2, 30), {})
    assert Fit(plan, Row(1e-4)).doing() == "step 30 of 30"  # as its log's progress bar says

    files = {path: path.stat().st_mtime_ns for path in place.glob("lr*/**/*")}
    said.write_text("")
    assert corridor(tmp_path, *options).wait(120) == 0
    assert "lr 1e-4: 2, 30 are finished" in said.read_text()
    assert "fitting" not in said.read_text()
    assert {path: path.stat().st_mtime_ns for path in place.glob("lr*/**/*")} == files


def test_a_rate_that_fails_is_a_cell_and_a_later_step_is_reached_from_the_checkpoint_before_it(
    tmp_path: Path,
) -> None:
    place, said = tmp_path / CORRIDOR, tmp_path / "said.txt"
    # 0.9 diverges within a few steps
    assert corridor(tmp_path, "--lr=1e-4,0.9", "--steps=2,8", "--devices=cpu,cpu").wait(240) == 1
    lines = said.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if ": fitting on the CPU" in line]
    first_cell = next(i for i, line in enumerate(lines) if line.startswith("lr 1e-4 x 2: not measured"))
    assert len(starts) == 2
    assert max(starts) < first_cell  # side by side
    table = read(place)
    assert [table.cells["lr1e-4", step].state for step in (2, 8)] == ["not measured", "not measured"]
    failed = table.cells["lr9e-1", 8]
    assert failed.state == "failed"
    assert failed.verdict.startswith("the loss is not finite (NaN or inf) at step")
    assert failed.verdict in (place / "corridor.html").read_text()

    said.write_text("")
    more = ("--lr=1e-4", "--steps=4", "--devices=cpu", "--seeds=0-1")
    assert corridor(tmp_path, *more).wait(240) == 0, said.read_text()
    assert "lr 1e-4: fitting from step 2 on the CPU" in said.read_text()
    assert "lr 1e-4, seed 1: fitting on the CPU" in said.read_text()
    runs = {run.name: run for run in read(place).runs}
    run, other = runs["lr1e-4"], runs["lr1e-4_seed1"]
    assert run.milestones == other.milestones == [0, 2, 4, 8]
    assert [step for step, _ in run.scalars["train/loss"]] == list(range(1, 9))
    assert (run.seed, other.seed) == (0, 1)
    assert run.scalars["train/loss"] != other.scalars["train/loss"]
    assert "lr 1e-4, seed 1" in (place / "corridor.html").read_text()


def fit_of(folder: Path) -> int | None:
    """The process of `fit` that a corridor has started in a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode().split("\0")
            if "fit" in words and (path.parent / "cwd").resolve() == folder:
                return int(path.parent.name)
    return None


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds a corridor's fit in /proc")
def test_a_fit_that_somebody_ends_is_told_whatever_its_status(tmp_path: Path) -> None:
    place, said = tmp_path / CORRIDOR, tmp_path / "said.txt"
    options = ("--lr=1e-4", "--steps=2,100000", "--devices=cpu", "--step_checkpoint.last_every_n_steps=1")
    process = corridor(tmp_path, *options)
    until(process, lambda: (place / "lr1e-4/checkpoints/step=00002.ckpt").exists(), tmp_path)
    fit = fit_of(tmp_path)
    assert fit is not None
    os.kill(fit, signal.SIGTERM)
    assert process.wait(120) == 1
    cells = read(place).cells
    assert [cells["lr1e-4", step].state for step in (2, 100000)] == ["not measured", "failed"]
    verdict = cells["lr1e-4", 100000].verdict
    step = read_checkpoint(place / "lr1e-4/checkpoints/last.ckpt")["global_step"]
    assert re.fullmatch(r"The fit was stopped by SIGTERM at step \d+ of 100000", verdict)
    assert int(verdict.split()[8]) >= step
    assert f"lr 1e-4: stopped. {verdict}" in said.read_text()
    last = said.read_text().splitlines()[-1]
    assert "to go on with: lightning-drift corridor --model.pipeline=" in last
    assert shlex.split(last)[-4:] == list(options)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds a corridor's fit in /proc")
def test_whoever_ends_the_reading_of_the_options_is_named(tmp_path: Path) -> None:
    process = corridor(tmp_path, "--lr=1e-4", "--steps=2", "--devices=cpu")
    until(process, lambda: fit_of(tmp_path), tmp_path)
    reader = fit_of(tmp_path)
    assert reader is not None
    os.kill(reader, signal.SIGTERM)
    assert process.wait(60) == 2
    told = "error: whoever read the options of the fits was stopped by SIGTERM; start it again"
    assert told in (tmp_path / "said.txt").read_text().splitlines()
    assert not (tmp_path / "tb_logs").exists()


def holds_lock(place: Path, name: str) -> bool:
    """Whether a fit still runs in a run folder: it inherits the lock beside it."""
    import fcntl

    with open(place / f"{name}.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def test_a_fit_that_cannot_be_started_takes_the_running_ones_with_it(tmp_path: Path) -> None:
    place, said = tmp_path / CORRIDOR, tmp_path / "said.txt"
    (place / "lr2e-4" / "checkpoints").mkdir(parents=True)
    (place / "lr2e-4" / "checkpoints" / "step=00002.ckpt").write_bytes(b"cut short")
    process = corridor(tmp_path, "--lr=1e-4,2e-4", "--steps=2,100000", "--devices=cpu,cpu")
    try:
        assert process.wait(240) == 2
        assert "lr2e-4 holds checkpoints that cannot be read" in said.read_text()
        assert "lr 1e-4: fitting on the CPU" in said.read_text()
        assert not holds_lock(place, "lr1e-4")
    finally:
        end_processes_of(place)


@pytest.mark.parametrize("damage", ["{run}/config.yaml", "plan.yaml"])
def test_a_corridor_that_cannot_be_read_any_more_leaves_no_fit_running(tmp_path: Path, damage: str) -> None:
    place, said = tmp_path / CORRIDOR, tmp_path / "said.txt"
    process = corridor(tmp_path, "--lr=1e-4", "--steps=2,100000", "--devices=cpu")
    until(process, lambda: (place / "lr1e-4" / "config.yaml").exists(), tmp_path)
    try:
        (place / damage.format(run="lr1e-4")).write_text("lr: [unclosed")
        assert process.wait(240) == 2
        assert "Traceback" not in said.read_text()
        assert not holds_lock(place, "lr1e-4")
    finally:
        end_processes_of(place)


def end_processes_of(place: Path) -> None:
    """Kill the fits that were left behind in a corridor, which are this test's own."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if (
            str(place.relative_to(place.parents[2])) in words
            and (path.parent / "cwd").resolve() == place.parents[2]
        ):
            os.kill(int(path.parent.name), signal.SIGKILL)


def test_slots_are_devices() -> None:
    assert find_slots("0,1", "auto") == ["0", "1"]
    assert find_slots("cpu,cpu", "auto") == ["cpu", "cpu"]
    assert find_slots("auto", "cpu") == ["cpu"]
    for wrong in ("0,,1", "gpu", "-1"):
        with pytest.raises(UserError, match="is not a list of devices"):
            find_slots(wrong, "auto")
    with pytest.raises(UserError, match="names a GPU twice"):
        find_slots("1,1", "auto")


def test_auto_takes_every_gpu_that_is_visible(monkeypatch: Any) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert find_slots("auto", "auto") == ["2", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_slots("auto", "gpu") == ["cpu"]


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="reads a process's environment from /proc"
)
def test_a_fit_sees_its_own_device_only_and_has_its_folder_to_itself(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("LIGHTNING_DRIFT_RUN", "another")
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(tmp_path), "name": "x"},
    }
    plan = take_up(make_plan({"trainer": {"logger": logger}, "data": {}}, "1e-4", "4", "corridor"))
    fit, other = Fit(plan, Row(1e-4)), Fit(plan, Row(1e-4))
    job = fit.prepare()
    assert not isinstance(job, Answer)
    (running,) = LocalLauncher(["3"]).launch([job])
    assert isinstance(running, LocalRunning)
    try:
        environment = Path(f"/proc/{running.process.pid}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=3" in environment
        assert not any(word.startswith(b"LIGHTNING_DRIFT_RUN") for word in environment)
        fit.release()  # as if the corridor had been killed: the fit itself still holds the lock
        assert not other.lock()
        assert other.prepare() is Answer.BUSY
    finally:
        running.process.kill()
        running.process.wait()
    assert other.lock()
    other.release()
    status = running.poll()
    assert status == -signal.SIGKILL
    assert fit.ended("", status)
    assert "SIGKILL" in fit.error_file.read_text()


def test_a_fit_of_another_computer_keeps_no_file_of_the_drivers_open(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    fits = [Fit(plan, Row(1e-4), handed_on=False) for _ in range(3)]
    jobs = [fit.prepare() for fit in fits]  # none is in another's way: the claim of the run tells
    assert [isinstance(job, Answer) or job.inherit for job in jobs] == [()] * 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "error: the GPU's memory is full. Training step 2 asked for 2.00 GiB more",
            "the GPU's memory is full. Training step 2 asked for 2.00 GiB more",
        ),
        (  # bitsandbytes, which ends the process
            "Error out of memory at line 430 in file /src/csrc/ops.cu",
            "The fit ended with status 1: the GPU's memory is full. Close what else uses it",
        ),
        ("Killed", "The fit ended with status 1: Killed"),
    ],
)
def test_a_full_memory_is_told_from_the_log(line: str, said: str, tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    fit = Fit(plan, Row(1e-4))
    fit.log.parent.mkdir(parents=True, exist_ok=True)
    fit.log.write_text(f"lightning-drift: encoding the photos once\n{line}\n")
    assert fit.failure(1).startswith(said)


def plan_in(folder: Path) -> Plan:
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(folder), "name": "x"},
    }
    return take_up(make_plan({"trainer": {"logger": logger}, "data": {}}, "1e-4", "4", "corridor"))


def test_what_no_fit_has_made_is_never_deleted(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    folder = plan.run(Row(1e-4))
    made = ("config.yaml", "events.out.tfevents.1.host.2.0", "grids/dream_step=00000.png")
    for name in made:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "config.yaml").write_text("seed_everything: 0\n")
    for foreign in ("notes.txt", "grids/mine.xcf", "step=00000.png"):
        (folder / foreign).write_text("dear")
        with pytest.raises(UserError, match=f"holds what no fit has made: {foreign}. Move that away"):
            FitQueue(plan, [Row(1e-4)], LocalLauncher(["cpu"]), lambda: None)
        with pytest.raises(UserError, match="no fit has made"):
            Fit(plan, Row(1e-4)).prepare()
        assert (folder / foreign).read_text() == "dear"
        assert (folder / "config.yaml").exists()
        (folder / foreign).unlink()
    FitQueue(plan, [Row(1e-4)], LocalLauncher(["cpu"]), lambda: None)


def test_a_gpu_that_is_not_visible_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    refuse_invisible(["cpu", "2", "0"])
    for slot in ("1", "GPU-0123"):
        with pytest.raises(UserError, match=rf"there is no GPU '{slot}'; visible are 0, 2") as told:
            refuse_invisible(["0", slot])
        assert told.value.option == "corridor.devices"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="none is visible; write cpu"):
        refuse_invisible(["0"])


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--data.instance_dir=empty", "data.instance_dir: empty has no photos in it"),
        (
            "--trainer.logger.init_args.save_dir=file",
            "trainer.logger.init_args.save_dir: cannot write to file",
        ),
    ],
)
def test_a_corridor_looks_before_it_makes_a_folder(
    option: str, sentence: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").touch()
    status, out, err = say(capsys, "--lr=1e-4", "--steps=4", option)
    assert status == 2
    assert sentence in err
    assert out == ""
    assert {path.name for path in Path().iterdir()} == {"empty", "file"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lr", "fast"], "corridor.lr: 'fast' is not a list of numbers"),
        (["--steps", "0"], "corridor.steps: give optimizer steps above 0"),
        (["--devices", "tpu"], "corridor.devices: 'tpu' is not a list of devices"),
        (
            ["--trainer.max_steps", "3"],
            "--trainer.max_steps: the corridor sets this for each fit; use --steps",
        ),
        (["--ckpt_path=last"], "--ckpt_path: the corridor sets this for each fit; it resumes by itself"),
        (["--model.learning_rat", "3"], "Option 'learning_rat' is not accepted"),
        (["-c", "nofile.yaml"], "-c: cannot read the configuration nofile.yaml"),
        (["-c", "broken.yaml"], "-c: the configuration broken.yaml is not YAML"),
        (
            ["-c", "section.yaml"],
            "corridor: give a section of devices, launcher, lr, name, recipe, search, seeds, steps",
        ),
        (["-c", "plain.yaml"], "corridor.lr: give it, for example --lr 1e-6,2e-6,4e-6"),
        (["-c", "zero_lr.yaml"], "corridor.lr: 0 is out of range; give one above 0"),
        (["-c", "zero_steps.yaml"], "corridor.steps: give optimizer steps above 0"),
        (["-c", "no_device.yaml"], "corridor.devices: '' is not a list of devices"),
        (["-c", "no_name.yaml"], "corridor.name: '' is not a folder's name"),
        (["report", "nowhere"], "there is no folder nowhere"),
        (["report", ".", "--to", "page.txt"], "let it end in .html"),
    ],
)
def test_each_mistake_is_answered_with_a_sentence(
    words: list[str], sentence: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("corridor: [unclosed\n")
    Path("section.yaml").write_text("corridor: {rates: 1e-6}\n")
    Path("plain.yaml").write_text("seed_everything: 3\n")
    Path("zero_lr.yaml").write_text("corridor: {lr: 0, steps: 8}\n")
    Path("zero_steps.yaml").write_text("corridor: {lr: 1e-6, steps: 0}\n")
    Path("no_device.yaml").write_text("corridor: {lr: 1e-6, steps: 8, devices: ''}\n")
    Path("no_name.yaml").write_text("corridor: {lr: 1e-6, steps: 8, name: ''}\n")
    status, _, err = say(capsys, *words)
    assert status == 2
    assert sentence in err
    assert "Traceback" not in err
    assert not list(Path().glob("tb_logs/*"))


def test_device_0_of_a_section_is_the_first_gpu_and_not_all_of_them(
    capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("corridor: {lr: 1e-6, steps: 8, devices: 0}\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc")
    status, _, err = say(capsys, "-c", "mine.yaml")
    assert status == 2
    assert "corridor.devices: there is no GPU '0'; visible are 1, GPU-abc" in err
    assert not Path("tb_logs").exists()


def test_a_section_names_its_recipe_and_the_command_line_wins(
    capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    Path("sub/base.yaml").write_text("seed_everything: 3\ntrainer: {precision: bf16-mixed}\n")
    Path("sub/mine.yaml").write_text(
        "corridor: {recipe: base.yaml, lr: 1e-6, steps: 8}\ntrainer: {precision: 32-true}\n"
    )
    status, out, _ = say(capsys, "-c", "sub/mine.yaml", "--print_config")
    assert status == 0
    config = yaml.safe_load(out)
    assert config["corridor"] == {"recipe": "base.yaml", "lr": 1e-6, "steps": 8}
    assert (config["seed_everything"], config["trainer"]["precision"]) == (3, "32-true")


def test_help_lists_the_corridors_own_options(capsys: Any) -> None:
    status, out, _ = say(capsys, "--help")
    assert status == 0
    for word in (
        "--lr",
        "--steps",
        "--devices",
        "--name",
        "corridor report FOLDER",
        "constant, so one fit per rate",
    ):
        assert word in out
