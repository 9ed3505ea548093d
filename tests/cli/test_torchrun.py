"""One fit and one predict by several processes that torchrun or srun has started."""

import os
import re
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import scalars
from helpers.launches import BOTH, COMMAND, begin, free_port, run, slurm, srun, surroundings, torchrun
from helpers.paths import DATA, ROOT
from PIL import Image

from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.common.ranks import first_process, launched
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.trainer_options import check_trainer

TINY = f"--model.pipeline={DATA / 'tiny_sd'}"
FIT = ["fit", TINY, "--model.log_every_n_steps=1", "--step_checkpoint.last_every_n_steps=1"]
BARE = [*FIT, "--seed_grid.steps=", "--clip_drift.steps="]
GRIDS = [
    "--seed_grid.num_inference_steps=2",
    "--seed_grid.groups={dream: {prompts: a, seeds: 0-1}, language: {prompts: [b, c], seeds: 0-1}}",
]
RUN = Path("tb_logs/coffee/lr4e-5_000")


def only(place: Path) -> Path:
    """The one run of a log folder, with one event file and no lock left."""
    (found,) = (place / "tb_logs" / "coffee").iterdir()
    assert not (found / ".lock").exists()
    return found


def states(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path)["state_dict"])


def spread(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], base: dict[str, Any]) -> float:
    """How far two weights are apart, against how far they have moved from their base."""
    apart = sum(float((one[k] - other[k]).double().square().sum()) for k in one)
    moved = sum(float((one[k] - base[k]).double().square().sum()) for k in one)
    return (apart / moved) ** 0.5


# -- what the environment tells ------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: Any) -> Any:
    def tell(**variables: str) -> None:
        for name in list(surroundings().keys() ^ os.environ.keys()):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return tell


STEP = {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "drift"}


@pytest.mark.parametrize(
    ("variables", "by", "first"),
    [
        ({}, None, True),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "WORLD_SIZE": "2"}, "torchrun", True),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, "torchrun", False),
        (STEP, "srun", False),
        (STEP | {"SLURM_PROCID": "0"}, "srun", True),
        (STEP | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None, True),  # the only task
        (STEP | {"SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"}, None, True),  # srun --pty bash
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "a.sh"}, None, True),  # a job's script
        ({"LOCAL_RANK": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None, False),  # Lightning's child
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, None, False),
    ],
)
def test_a_process_knows_its_place(variables: Any, by: Any, first: bool, told: Any) -> None:
    told(**variables)
    place = launched()
    assert (place and place.by, first_process()) == (by, first)


@pytest.mark.parametrize(
    ("options", "give"),
    [
        ({"devices": 1}, "each would train by itself; give --trainer.devices 2 --trainer.num_nodes 1"),
        ({"devices": "2", "num_nodes": 2}, "they would wait for ever; give --trainer.devices 2"),
        ({"devices": [0]}, "each would train by itself"),
        ({"devices": "0,1"}, None),
        ({"devices": "auto"}, None),  # looked at once the Trainer knows
    ],
)
def test_a_trainer_of_another_count_is_refused(options: Any, give: Any, told: Any) -> None:
    told(TORCHELASTIC_RUN_ID="a", RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="localhost")
    if give is None:
        check_trainer(options)
        return
    with pytest.raises(UserError, match=re.escape(give)):
        check_trainer(options)


# -- a fit ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory: Any) -> tuple[Path, str, str]:
    """A fit of two processes by torchrun, with grids and a zone to stop at; what it wrote and said."""
    folder = tmp_path_factory.mktemp("two")
    borders = ["--clip_drift.thresholds.drift_prompt=0.000001", "--clip_drift.thresholds.tilt=0.000001"]
    words = [*FIT, *GRIDS, *borders, "--seed_grid.steps=0,3", "--clip_drift.stop_when=dreaming"]
    words += ["--trainer.max_steps=6", "--step_checkpoint.steps=3", "--trainer.accumulate_grad_batches=2"]
    status, out, err = run(torchrun(*words, *BOTH), folder)
    assert status == 0, err
    return folder, out, err


def test_two_processes_write_one_run_and_stop_together(two: Any) -> None:
    folder, out, err = two
    found = only(folder)
    assert len(list(found.glob("events.out.tfevents.*"))) == 1
    assert {path.name for path in (found / "checkpoints").iterdir()} == {"step=00003.ckpt", "last.ckpt"}
    assert {path.name for path in (found / "drift").iterdir()} == {"step=00000.json", "step=00003.json"}
    assert err.count("the fit ends at step 3 because it is") == 1
    assert out.count("The run is in") == out.count("step 3: ") == 1
    assert read_checkpoint(found / "checkpoints" / "last.ckpt")["recipe"]["world_size"] == 2


def test_two_processes_with_one_photo_train_as_one_with_two(
    two: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    folder, _, _ = two
    monkeypatch.chdir(tmp_path)
    words = [*BARE, "--trainer.max_steps=3", "--step_checkpoint.steps=", "--data.batch_size=2"]
    assert main([*words, "--trainer.accelerator=cpu", "--trainer.accumulate_grad_batches=2"]) == 0
    one, other = scalars(RUN), scalars(only(folder))
    for tag in ("train/loss", "train/grad_norm"):
        assert [step for step, _ in other[tag]] == [1, 2, 3]
        for (_, left), (_, right) in zip(one[tag], other[tag], strict=True):
            assert left == pytest.approx(right, rel=2e-6), tag
    ours, theirs = (states(place / "checkpoints" / "last.ckpt") for place in (RUN, only(folder)))
    assert main([*words, "--trainer.max_steps=1", "--model.learning_rate=1e-30"]) == 0
    base = states(Path("tb_logs/coffee/lr1e-30_000/checkpoints/last.ckpt"))
    assert spread(ours, theirs, base) < 1e-3  # 1.2e-4 was measured


def test_srun_goes_on_with_it_and_says_what_is_another_training(two: Any) -> None:
    """And the requeued checkpoint of Lightning that lies about is not gone on with."""
    folder, _, _ = two
    (folder / "hpc_ckpt_1.ckpt").write_bytes(b"not to be read")
    words = ["fit", "-c", str(RUN / "config.yaml"), "--ckpt_path", "last", "--clip_drift.stop_when=null"]
    told = srun(folder, *words, "--trainer.max_steps=5", "--seed_grid.steps=", "--clip_drift.steps=")
    assert [status for status, _, _ in told] == [0, 0], told
    assert f"going on at step 3 in {RUN}" in told[0][2]
    assert "going on" not in told[1][2]
    assert "resuming with another" not in told[0][2]
    found = only(folder)
    assert [step for step, _ in scalars(found)["train/loss"]] == [1, 2, 3, 4, 5]
    assert len(list(found.glob("config.resume-*.yaml"))) == 1


def test_another_number_of_processes_is_said_and_old_checkpoints_say_nothing(
    two: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    folder, _, _ = two
    checkpoint = read_checkpoint(only(folder) / "checkpoints" / "step=00003.ckpt")
    torch.save(checkpoint, tmp_path / "new.ckpt")
    del checkpoint["recipe"]["world_size"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    monkeypatch.chdir(tmp_path)
    for name in ("new", "old"):
        words = [*BARE, "--trainer.max_steps=4", "--trainer.accumulate_grad_batches=2"]
        assert main([*words, "--step_checkpoint.steps=", "--ckpt_path", f"{name}.ckpt"]) == 0
        said = "resuming with another world_size: 2 when the checkpoint was saved, 1 now"
        assert (said in capsys.readouterr().err) == (name == "new")


# -- ends ----------------------------------------------------------------------------------------------------


def test_srun_without_a_checkpoint_begins_afresh_and_a_signal_to_one_ends_both(tmp_path: Path) -> None:
    """`scancel` reaches all tasks; here the second one alone hears it."""
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"not to be read")
    port, words = free_port(), [*COMMAND, *BARE, *BOTH, "--trainer.max_steps=100000"]
    first, second = (begin(words, tmp_path, slurm(rank, port)) for rank in (0, 1))
    last = tmp_path / RUN / "checkpoints" / "last.ckpt"
    for _ in range(6000):
        if last.exists() or first.poll() is not None:
            break
        time.sleep(0.01)
    second.send_signal(signal.SIGTERM)
    said, other = first.communicate(timeout=60)[1], second.communicate(timeout=60)[1]
    assert (first.returncode, second.returncode) == (143, 143), said + other
    assert "Traceback" not in said + other
    step = read_checkpoint(last)["global_step"]
    line = rf"stopped by SIGTERM at step \d+ of 100000, saved up to step {step}; go on with"
    assert re.search(line, said), said
    assert not other or "stopped" not in other
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_torchrun_ends_all_in_order(number: signal.Signals, tmp_path: Path) -> None:
    process = begin(torchrun(*BARE, *BOTH, "--trainer.max_steps=100000"), tmp_path, surroundings())
    last = tmp_path / RUN / "checkpoints" / "last.ckpt"
    for _ in range(6000):
        if last.exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    named = "Ctrl-C" if number is signal.SIGINT else "SIGTERM"
    step = read_checkpoint(last)["global_step"]
    assert len(re.findall(rf"stopped by {named} at step \d+ of 100000, saved up to step {step};", said)) == 1
    assert said.count("lightning-drift: stopped") == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_a_refusal_is_said_once_and_ends_both(two: Any, tmp_path: Path) -> None:
    folder, _, _ = two
    from lightning_drift.common.lock import FolderLock

    lock = FolderLock(only(folder), "run")
    try:
        words = ["fit", "-c", str(RUN / "config.yaml"), "--ckpt_path", "last", "--trainer.max_steps=9"]
        told = srun(folder, *words)
    finally:
        lock.release()
    assert [status for status, _, _ in told] == [2, 2], told
    assert told[0][2].count("is being written by process") == 1
    assert told[1][2] == ""


def test_a_process_that_fails_alone_is_heard(tmp_path: Path) -> None:
    """The second one cannot read its photos; the first one waits for it, and says what it said."""
    port = free_port()
    words = [*COMMAND, *BARE, *BOTH, "--trainer.max_steps=3"]
    first = begin(words, tmp_path, slurm(0, port))
    second = begin([*words, "--data.instance_dir=nowhere"], tmp_path, slurm(1, port))
    said, other = first.communicate(timeout=90)[1], second.communicate(timeout=90)[1]
    assert (first.returncode, second.returncode) == (2, 2), said + other
    assert said.count("error: ") == 1
    assert "nowhere" in said
    assert "error: " not in other
    assert "Traceback" not in said + other


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--trainer.devices=1"], "error: trainer.devices: torchrun has started 2 processes on 1 computer"),
        ([*BOTH, "--model.memory=split"], "split"),
        ([*BOTH, "--model.train_text_encoder_steps=2"], "the text encoder can stop on one device alone"),
        ([*BOTH, "--data.instance_dir=nowhere"], "nowhere"),
        ([*BOTH, "--ckpt_path=none.ckpt"], "there is no checkpoint none.ckpt"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
@pytest.mark.slow
def test_what_torchrun_cannot_run_is_refused_once_and_nothing_stays(
    options: list[str], sentence: str, tmp_path: Path
) -> None:
    status, _, err = run(torchrun(*BARE, "--trainer.max_steps=2", *options), tmp_path)
    assert status == 1
    assert err.count("error: ") == 1
    assert sentence in next(line for line in err.splitlines() if "error: " in line)
    assert not list(tmp_path.glob("tb_logs/coffee/*"))


@pytest.mark.slow
def test_two_computers_write_one_run(tmp_path: Path) -> None:
    port = free_port()
    shared = [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-backend=c10d", "--rdzv-id=a"]
    words = [*BARE, "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.num_nodes=2"]
    node = torchrun(*words, more=["--nnodes=2", "--nproc_per_node=1", *shared])
    nodes = [begin(node, tmp_path, surroundings()) for _ in range(2)]
    told = [(*process.communicate(timeout=120), process.returncode) for process in nodes]
    assert [status for _, _, status in told] == [0, 0], told
    assert "".join(out for out, _, _ in told).count("The run is in") == 1
    assert [step for step, _ in scalars(only(tmp_path))["train/loss"]] == [1, 2]


# -- pictures ------------------------------------------------------------------------------------------------


def test_two_processes_dream_the_pictures_of_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["predict", TINY, "--model.num_inference_steps=2", "--data.seeds=0-6", "--data.batch_size=2"]
    assert main([*words, "--image_writer.output_dir=one"]) == 0
    status, out, err = run(torchrun(*words, *BOTH, "--image_writer.output_dir=two"), tmp_path)
    assert status == 0, err
    assert out.count("7 pictures written to two") == 1
    one, other = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("one", "two"))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sweep", "prints"])
def test_two_processes_make_the_files_of_one(what: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A sweep with its report, and prints of the pocket's SUPIR."""
    monkeypatch.chdir(tmp_path)
    if what == "sweep":
        words = ["-c", str(ROOT / "configs" / "sweep.yaml"), "--data.checkpoints", str(DATA / "tiny_sd")]
        words += ["--data.prompts", '["a red tower", "a lake"]', "--data.seeds", "0-3", "--data.clip", "null"]
        words += ["--data.num_inference_steps", "1,2", "--data.batch_size", "3"]
    else:
        Path("in").mkdir()
        for number in range(3):
            Image.linear_gradient("L").resize((32 + number, 32)).convert("RGB").save(f"in/{number}.png")
        words = ["-c", str(ROOT / "configs" / "supir_pocket.yaml"), "--model.edm_steps=2"]
        words.append(f"--data.images={tmp_path / 'in'}")
    words.append("--image_writer.output_dir=same")
    for name in ("one", "two"):
        Path(name).mkdir()
    monkeypatch.chdir("one")
    assert main(["predict", *words]) == 0
    status, out, err = run(torchrun("predict", *words, *BOTH), tmp_path / "two")
    assert status == 0, err
    assert len(re.findall(r"\d+ pictures written to same", out)) == 1
    monkeypatch.chdir("..")
    one, other = (
        {path.relative_to(name): path.read_bytes() for path in Path(name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    if (page := Path("same/proof.html")) in other:  # its commands are of two processes too
        other[page] = other[page].replace(f" {shlex.join(BOTH)}".encode(), b"")
    assert one == other
