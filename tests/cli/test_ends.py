"""Commands that are ended before their time: status, one line, the command that goes on, no torn file."""

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import scalars
from helpers.paths import DATA

from lightning_drift.cli import main
from lightning_drift.fit.checkpoint_file import read_checkpoint

TINY = f"--model.pipeline={DATA / 'tiny_sd'}"
FIT = ["fit", TINY, "--seed_grid.steps=", "--clip_drift.steps=", "--model.log_every_n_steps=1"]
PREDICT = ["predict", "--model.num_inference_steps=1", "--data.batch_size=2"]
RUN = Path("tb_logs/coffee/lr4e-5_000")
started: list["subprocess.Popen[str]"] = []


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> Iterator[None]:
    """A folder of its own, a command line that is not pytest's, and nothing left running."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    monkeypatch.delenv("LIGHTNING_DRIFT_RUN", raising=False)
    yield
    while started:
        process = started.pop()
        process.kill()
        process.communicate()


def start(*words: str, **options: Any) -> "subprocess.Popen[str]":
    def hear() -> None:  # tests started in the background of a shell would hand down that they hear nothing
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    started.append(
        subprocess.Popen(
            [sys.executable, "-m", "lightning_drift", *words],
            stdout=options.pop("stdout", subprocess.DEVNULL),
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=options.pop("preexec_fn", hear),
            **options,
        )
    )
    return started[-1]


def until(process: "subprocess.Popen[str]", moment: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not moment():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit status, and the one line that tells of the end."""
    said = process.communicate(timeout=120)[1]
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "stopped by" in line]
    assert said.splitlines()[-1] == line
    return process.returncode, line


def command_in(line: str) -> list[str]:
    return shlex.split(line.rpartition(" with: lightning-drift ")[2])


def complete(*folders: str) -> bool:
    """Whether no half-written file lies about."""
    return not [path for folder in folders for path in Path(folder).rglob("*.partial")]


def say(capsys: Any, *words: str) -> tuple[int, str, str]:
    status = main(list(words))
    out, err = capsys.readouterr()
    return status, out, err


def test_a_fit_that_is_terminated_names_its_step_and_the_command_that_finishes_it(capsys: Any) -> None:
    process = start(*FIT, "--trainer.max_steps=60", "--step_checkpoint.last_every_n_steps=3")
    until(process, (RUN / "checkpoints" / "last.ckpt").exists)
    process.send_signal(signal.SIGTERM)
    status, line = ended(process)
    assert status == 143
    saved = read_checkpoint(RUN / "checkpoints" / "last.ckpt")["global_step"]
    assert "stopped by SIGTERM at step" in line
    assert f" of 60, saved up to step {saved}; go on with: lightning-drift fit -c {RUN}/config.yaml" in line
    assert complete("tb_logs")

    status, _, err = say(capsys, *command_in(line))
    assert status == 0, err
    assert f"going on at step {saved} in {RUN}" in err
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt")["global_step"] == 60
    assert [step for step, _ in scalars(RUN)["train/loss"]] == list(range(1, 61))


def test_a_closed_terminal_ends_a_predict_which_counts_its_pictures() -> None:
    process = start(*PREDICT, "--data.seeds=0-999", "--image_writer.output_dir=my dreams")
    until(process, lambda: list(Path("my dreams").glob("*.png")))
    process.send_signal(signal.SIGHUP)
    status, line = ended(process)
    assert status == 129
    count = len(list(Path("my dreams").glob("*.png")))
    pictures = f"{count} picture{'s' * (count != 1)}"
    assert f"stopped by SIGHUP (its terminal was closed) with {pictures} written to my dreams" in line
    assert command_in(line) == [*PREDICT, "--data.seeds=0-999", "--image_writer.output_dir=my dreams"]
    assert complete("my dreams")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees in /proc what a process has loaded")
def test_ctrl_c_while_libraries_are_imported_is_answered_with_a_line() -> None:
    process = start("predict", "--data.prompts", "it's a tree")
    maps = Path(f"/proc/{process.pid}/maps")
    until(process, lambda: "libtorch" in maps.read_text())
    process.send_signal(signal.SIGINT)
    status, line = ended(process)
    assert status == 130
    assert "stopped by Ctrl-C before anything was done; start it again with: " in line
    assert command_in(line) == ["predict", "--data.prompts", "it's a tree"]
    assert not list(Path().iterdir())


def test_a_signal_in_the_middle_of_a_save_waits_for_it(capsys: Any, monkeypatch: Any) -> None:
    save, saved = torch.save, []

    def interrupted(checkpoint: Any, file: Any) -> None:
        saved.append(checkpoint["global_step"])
        if saved[-1] == 3:
            signal.raise_signal(signal.SIGINT)
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", interrupted)
    words = ("--trainer.max_steps=9", "--step_checkpoint.last_every_n_steps=1", "--step_checkpoint.steps=")
    status, _, err = say(capsys, *FIT, *words)
    assert status == 130
    assert "stopped by Ctrl-C at step 3 of 9, saved up to step 3; go on with: " in err
    assert saved == [1, 2, 3]
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert complete("tb_logs")


@pytest.mark.parametrize("place", ["ldm_tensors", "load_stable_diffusion", "companions"])
def test_an_export_that_is_ended_leaves_nothing(place: str, capsys: Any, monkeypatch: Any) -> None:
    name = f"lightning_drift.export.whole_model.{place}"
    with monkeypatch.context() as patch:
        patch.setattr(name, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        status, _, err = say(capsys, "export", "--ckpt_path", "pocket", "--to", "a b.safetensors")
    assert status == 143
    assert not list(Path().iterdir())
    assert "before the export was finished; start it again with: " in err
    status, _, err = say(capsys, *command_in(err.splitlines()[-1]))
    assert status == 0, err


@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
def test_an_export_that_is_ended_when_it_lies_there_says_so(form: str, capsys: Any, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        name = "lightning_drift.export.whole_model.refuse_other_outputs"
        patch.setattr(name, lambda *_, **__: signal.raise_signal(signal.SIGHUP))
        status, _, err = say(capsys, "export", "--ckpt_path", "pocket", "--to", "out", "--format", form)
    assert status == 129
    assert "was written, with nothing left to do" in err
    assert complete("out")
    written = Path("out") if form == "diffusers" else Path("out/pocket.safetensors")
    assert (
        main(["predict", f"--model.pipeline={written}", "--data.seeds=0", "--model.num_inference_steps=1"])
        == 0
    )


def test_a_fit_whose_output_nobody_reads_any_more_goes_on_to_its_end() -> None:
    reader, writer = os.pipe()
    process = start(*FIT, "--trainer.max_steps=2", stdout=writer)
    os.close(writer)
    os.close(reader)  # as `| head -1` does
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt")["global_step"] == 2


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process become larger than some bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_sentence_that_says_how_to_go_on(
    capsys: Any, small_files: Any, monkeypatch: Any
) -> None:
    save = torch.save

    def fill(checkpoint: Any, file: Any) -> None:
        if checkpoint["global_step"] == 2:
            small_files(2**16)
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", fill)
    status, _, err = say(capsys, *FIT, "--trainer.max_steps=4", "--step_checkpoint.last_every_n_steps=1")
    assert status == 2
    assert err.splitlines()[-1].startswith("error: cannot write the checkpoint")
    assert f"stopped at step 2 of 4, saved up to step 1; go on with: lightning-drift fit -c {RUN}" in err
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt")["global_step"] == 1
    assert complete("tb_logs")


def test_a_machine_out_of_memory_is_a_sentence(capsys: Any, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("lightning_drift.dreams.dreamer.dream", full)
    status, _, err = say(capsys, *PREDICT, "--data.seeds=0")
    assert status == 2
    assert "error: the GPU's memory is full. " in err
    assert "batch_size" in err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--trainer.max_steps=0", "Nothing was trained, since trainer.max_steps is 0"),
        ("--trainer.limit_train_batches=0", "Nothing was trained, since trainer.limit_train_batches is 0"),
    ],
)
def test_a_fit_without_a_step_claims_no_files(option: str, said: str, capsys: Any) -> None:
    status, out, err = say(capsys, *FIT, "--trainer.max_steps=2", option)
    assert status == 0, err
    assert said in out
    assert "checkpoints/" not in out
    assert "Dream of it" not in out


def test_a_fit_without_a_logger_says_where_its_files_are(capsys: Any) -> None:
    status, out, err = say(capsys, *FIT, "--trainer.max_steps=1", "--trainer.logger=false")
    assert status == 0, err
    (last,) = Path().rglob("last.ckpt")
    assert "checkpoints in checkpoints/" in out
    assert f"The run is in {last.absolute().parents[1]}" in out


@pytest.mark.parametrize("words", [["--help"], ["fit", "--print_config"]], ids=" ".join)
def test_what_the_output_lost_is_not_a_success(words: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        process = start(*words, stdout=full)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said == "error: the output could not all be written (No space left on device)\n"
