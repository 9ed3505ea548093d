"""What a checkpoint must hold for a fit to go on from it, on the real command."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import scalars

from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.resume import check_resumable

FIT = [
    "fit",
    "--trainer.enable_progress_bar=false",
    "--step_checkpoint.last_every_n_steps=0",
    "--seed_grid.steps=",
    "--clip_drift.text_every_n_steps=0",
    "--model.log_every_n_steps=1",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any) -> Path:
    """A log folder with a run of three steps, saved at steps 2 and 3."""
    folder: Path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("LIGHTNING_DRIFT_RUN", raising=False)
        main([*FIT, "--trainer.max_steps=3", "--step_checkpoint.steps=2,3"])
    (run,) = (folder / "tb_logs" / "coffee").iterdir()
    (run / "checkpoints" / "last.ckpt").unlink()
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_DRIFT_RUN", raising=False)
    return Path(shutil.copytree(finished, tmp_path / "tb_logs" / "coffee" / finished.name))


def resume(run: Path, *options: str, checkpoint: str = "last") -> int:
    config = ["-c", str(run / "config.yaml"), "--ckpt_path", checkpoint, "--trainer.max_steps=4"]
    try:
        return main(["fit", *config, *options]) or 0
    except SystemExit as end:
        return int(end.code or 0)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    checkpoint = torch.load(path, weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, path)


def first_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return checkpoint["optimizer_states"][0]["state"][0]


def counted(checkpoint: dict[str, Any]) -> dict[str, int]:
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
    return progress["optimizer"]["step"]["total"]


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no loops": (lambda c: c.pop("loops"), "does not hold the trainer's progress"),
    "loops a list": (lambda c: c.update(loops=[1]), "does not hold the trainer's progress"),
    "another step": (lambda c: counted(c).update(completed=2), "tells step 3, and its loops tell 2"),
    "no optimizer states": (lambda c: c.pop("optimizer_states"), "does not hold the optimizer's state"),
    "optimizer states []": (lambda c: c.update(optimizer_states=[]), "does not hold the optimizer's state"),
    "empty state": (
        lambda c: c["optimizer_states"][0]["state"].clear(),
        "does not hold the optimizer's state",
    ),
    "moments lost": (lambda c: first_state(c).pop("exp_avg"), "state does not fit the model"),
    "a parameter's state lost": (lambda c: c["optimizer_states"][0]["state"].pop(0), "(unet.conv_in.weight)"),
    "another shape": (lambda c: first_state(c).update(exp_avg=torch.zeros(2)), "(unet.conv_in.weight)"),
    "step a string": (lambda c: c.update(global_step="four"), "tells 'four' as its step"),
    "step negative": (lambda c: c.update(global_step=-1), "tells -1 as its step"),
    "step a truth": (lambda c: c.update(global_step=True), "tells True as its step"),
    "recipe a list": (lambda c: c.update(recipe=[1]), "does not hold its fit's recipe"),
    "no version": (lambda c: c.pop("pytorch-lightning_version"), "the version of its trainer"),
    "weights a list": (lambda c: c.update(state_dict=[]), "does not hold a model's weights"),
    "NaN": (
        lambda c: c["state_dict"]["unet.conv_in.bias"].fill_(torch.nan),
        "unet.conv_in.bias holds NaN or infinity",
    ),
    "loops of another kind": (
        lambda c: c["loops"]["fit_loop"].update(state_dict=3),
        "does not hold the trainer's progress",
    ),
    "negative squares": (
        lambda c: first_state(c)["exp_avg_sq"].fill_(-1),
        "exp_avg_sq of the optimizer's parameter 0 cannot be so",
    ),
    "complex moments": (
        lambda c: first_state(c).update(exp_avg=first_state(c)["exp_avg"].cfloat()),
        "exp_avg of the optimizer's parameter 0 cannot be so",
    ),
    "three steps": (
        lambda c: first_state(c).update(step=torch.ones(3)),
        "step of the optimizer's parameter 0 cannot be so",
    ),
    "infinite moments": (
        lambda c: first_state(c)["exp_avg_sq"].fill_(torch.inf),
        "exp_avg_sq of the optimizer's parameter 0 holds NaN",
    ),
}


ON_THE_COMMAND = ("no loops", "step a string", "NaN")


@pytest.mark.parametrize("fault", EDITS)
def test_a_checkpoint_that_lost_something_is_refused(run: Path, fault: str, capsys: Any) -> None:
    edit, sentence = EDITS[fault]
    path = run / "checkpoints" / "step=00003.ckpt"
    change(path, edit)
    if "fit the model" not in sentence and "(unet" not in sentence and fault not in ON_THE_COMMAND:
        with pytest.raises(UserError) as refused:  # the command asks this very check
            check_resumable(path)
        assert sentence in str(refused.value)
        return
    before = {file.name for file in run.iterdir()}
    assert resume(run, checkpoint=str(path)) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
    assert {file.name for file in run.iterdir()} == before  # and no event file hides points


def test_last_passes_over_a_flipped_byte(run: Path, capsys: Any) -> None:
    path = run / "checkpoints" / "step=00003.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    assert resume(run, checkpoint=str(path)) == 2
    told = capsys.readouterr().err
    assert f"{path} is damaged (the check sum of" in told
    assert "resume from an earlier one" in told
    assert resume(run) == 0
    told = capsys.readouterr().err
    assert "It is passed over" in told
    assert "going on at step 2" in told
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 4


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--model.optimizer=bitsandbytes.optim.AdamW8bit", "model.optimizer: "),
        ("--model.train_text_encoder=false", "model.train_text_encoder: "),
        ("--model.optimizer_args={amsgrad: true}", "model.optimizer_args: "),
    ],
)
def test_another_optimizer_is_refused_and_hides_no_point(
    run: Path, option: str, sentence: str, capsys: Any
) -> None:
    before = scalars(run)
    assert resume(run, option, checkpoint=str(run / "checkpoints" / "step=00002.ckpt")) == 2
    assert f"error: {sentence}" in capsys.readouterr().err
    assert scalars(run) == before
    assert [step for step, _ in before["train/loss"]] == [1, 2, 3]


def test_validate_refuses_weights_that_are_not_numbers(run: Path, capsys: Any) -> None:
    path = run / "checkpoints" / "step=00003.ckpt"
    change(path, lambda c: c["state_dict"]["unet.conv_in.bias"].fill_(torch.inf))
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main(["validate", "-c", str(run / "config.yaml"), "--ckpt_path", str(path)]))
    assert end.value.code == 2
    assert "unet.conv_in.bias holds NaN or infinity" in capsys.readouterr().err


def test_a_fit_that_stopped_stays_stopped(run: Path, capsys: Any) -> None:
    def stop(checkpoint: dict[str, Any]) -> None:
        checkpoint["callbacks"]["ClipDrift"]["zones"] = {"2": "dreaming", "3": "cooked"}

    change(run / "checkpoints" / "step=00003.ckpt", stop)
    assert resume(run, "--clip_drift.stop_when=cooked") == 2
    told = capsys.readouterr().err
    assert "clip_drift.stop_when: the fit ended at step 3, because it was cooked" in told
    assert resume(run, "--clip_drift.stop_when=broken") == 0
