"""Checkpoints: complete at their name, exact to resume from, and blind to who else is watching."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.bits import assert_same_bits
from helpers.fits import fit
from helpers.stand_ins import Latents
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision

from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpointing import AtomicCheckpointIO, StepCheckpoint, checkpoint_bytes
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.photos.instance_images import InstanceImages


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_ends_in_the_bits_of_the_unbroken_one(
    tiny_sd: str, trainer: Any, tmp_path: Path, accumulate: int
) -> None:
    unbroken = fit(tiny_sd, trainer, tmp_path / "a", 5, accumulate=accumulate)
    fit(tiny_sd, trainer, tmp_path / "b", 2, accumulate=accumulate)
    middle = tmp_path / "b" / "step=00002.ckpt"
    content = middle.read_bytes()
    # Extending max_steps after a finished run, twice.
    fit(tiny_sd, trainer, tmp_path / "b", 3, middle, accumulate=accumulate)
    assert middle.read_bytes() == content  # resuming does not write to what it resumed from
    resumed = fit(tiny_sd, trainer, tmp_path / "b", 5, tmp_path / "b" / "last.ckpt", accumulate=accumulate)
    assert_same_bits(unbroken, resumed)
    assert resumed["global_step"] == 5


@pytest.mark.parametrize("accumulate", [1, 2])
def test_callbacks_do_not_change_the_training(
    tiny_sd: str, trainer: Any, tmp_path: Path, accumulate: int
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone = fit(
        tiny_sd, trainer, tmp_path / "a", 4, accumulate=accumulate, model={"weight_change_every_n_steps": 0}
    )
    watched = fit(tiny_sd, trainer, tmp_path / "b", 4, accumulate=accumulate, grid=True)
    assert_same_bits(alone, watched)
    assert torch.equal(torch.get_rng_state(), before)  # nobody touched the global generator


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_number_of_workers_does_not_change_the_training(
    tiny_sd: str, trainer: Any, tmp_path: Path, accumulate: int
) -> None:
    finals = []
    for workers in (0, 2):
        data = InstanceImages("galaxies", crop="random", num_workers=workers, batch_size=2, cache_dir=None)
        checkpoint = StepCheckpoint("", last_every_n_steps=0, dirpath=str(tmp_path / str(workers)))
        run = trainer(max_steps=3, accumulate_grad_batches=accumulate, callbacks=[checkpoint])
        run.fit(DreamBooth(tiny_sd, latents="reencode", learning_rate=1e-4), datamodule=data)
        finals.append(read_checkpoint(tmp_path / str(workers) / "last.ckpt"))
    assert_same_bits(*finals)


def test_a_loss_scaler_skips_an_overflow_and_its_run_resumes_exactly(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    """Real float16 autocast with a GradScaler, which PyTorch runs on the CPU too."""

    def scaled(folder: str, steps: int, resume: Path | None = None) -> dict[str, Any]:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)  # overflows at first
        precision = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        return fit(
            tiny_sd, trainer, tmp_path / folder, steps, resume, plugins=[precision, AtomicCheckpointIO()]
        )

    first = scaled("b", 3)
    unbroken, resumed = scaled("a", 9), scaled("b", 9, tmp_path / "b" / "last.ckpt")
    assert_same_bits(unbroken, resumed)
    scales = [checkpoint["MixedPrecision"]["scale"] for checkpoint in (first, unbroken, resumed)]
    assert scales[0] < 2.0**22
    assert scales[1] == scales[2]
    steps = {state["step"] for state in unbroken["optimizer_states"][0]["state"].values()}
    assert max(steps) < 9  # skipped steps count as steps of the run, not of the optimizer


def test_with_room_for_no_checkpoint_the_previous_one_stays(tmp_path: Path, monkeypatch: Any) -> None:
    writer, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    good = {"state_dict": {"a": torch.ones(1000)}, "global_step": 1}
    writer.save_checkpoint(good, path)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"no room .* .*last.ckpt: it needs 64\.00 MiB of the 1\.00 MiB"):
        writer.save_checkpoint(good | {"global_step": 2}, path)
    assert read_checkpoint(path)["global_step"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_disk_that_fills_while_writing_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
import torch
from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpointing import AtomicCheckpointIO
writer, path = AtomicCheckpointIO(), sys.argv[1]
good = {"state_dict": {"a": torch.ones(100_000)}, "global_step": 1}
writer.save_checkpoint(good, path)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    writer.save_checkpoint(good | {"global_step": 2}, path)
except UserError as error:
    print(error)
"""
    path = tmp_path / "last.ckpt"
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert said.stdout.startswith(f"cannot write the checkpoint {path}")
    assert read_checkpoint(path)["global_step"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "code", "foreign"])
def test_a_damaged_or_foreign_checkpoint_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: Any, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"a": torch.ones(9)}, "global_step": 1}, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif damage == "garbage":
        path.write_bytes(b"not a checkpoint")
    else:
        torch.save({"state_dict": Malicious()} if damage == "code" else {"weights": {}}, path)
    sentence = (
        "is not a checkpoint of this trainer" if damage == "foreign" else "damaged, incomplete or not a"
    )
    with pytest.raises(UserError, match=sentence):
        read_checkpoint(path)
    assert not (tmp_path / "unpickled").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint .*nothing\.ckpt"):
        read_checkpoint(tmp_path / "nothing.ckpt")


def test_resuming_on_another_base_names_what_does_not_fit(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    fit(tiny_sd, trainer, tmp_path, 1)
    with pytest.raises(
        UserError, match=r"does not fit pocket \((missing|unexpected|shape of) .*made from .*tiny_sd"
    ):
        trainer(max_steps=2).fit(
            DreamBooth("pocket"), datamodule=Latents((4, 16, 16)), ckpt_path=tmp_path / "last.ckpt"
        )


def test_this_runs_learning_rate_holds_after_a_resume_and_is_announced(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    fit(tiny_sd, trainer, tmp_path, 1)
    module = DreamBooth(tiny_sd, learning_rate=3e-6, optimizer=bitsandbytes.optim.AdamW8bit)
    run = trainer(max_steps=2)
    run.fit(module, datamodule=Latents(), ckpt_path=tmp_path / "last.ckpt")
    assert {group["lr"] for group in run.optimizers[0].param_groups} == {3e-6}
    assert "resuming with another learning_rate: 0.0001 when the checkpoint was saved, 3e-06 now" in (
        capsys.readouterr().err
    )


def test_pruning_keeps_the_newest_and_never_deletes_before_a_newer_one_is_complete(
    tiny_sd: str, trainer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    checkpoint = StepCheckpoint("1,2,3", last_every_n_steps=0, keep=1, dirpath=str(tmp_path))
    seen = []
    save = AtomicCheckpointIO.save_checkpoint

    def save_and_list(self: Any, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        seen.append(sorted(path.name for path in tmp_path.glob("step=*.ckpt")))

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_list)
    trainer(max_steps=3, callbacks=[checkpoint]).fit(DreamBooth(tiny_sd), datamodule=Latents())
    assert seen == [
        ["step=00001.ckpt"],
        ["step=00001.ckpt", "step=00002.ckpt"],
        ["step=00002.ckpt", "step=00003.ckpt"],
    ]
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["last.ckpt", "step=00003.ckpt"]
    assert (tmp_path / "last.ckpt").samefile(tmp_path / "step=00003.ckpt")  # one file, two names


def test_pruning_after_going_back_keeps_what_was_just_saved(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    fit(tiny_sd, trainer, tmp_path, 3, save="1,3")
    checkpoint = StepCheckpoint("2", last_every_n_steps=0, keep=1, dirpath=str(tmp_path))
    module = DreamBooth(tiny_sd, optimizer=bitsandbytes.optim.AdamW8bit, learning_rate=1e-4)
    run = trainer(max_steps=2, callbacks=[checkpoint])
    run.fit(module, datamodule=Latents(), ckpt_path=tmp_path / "step=00001.ckpt")
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["last.ckpt", "step=00002.ckpt"]
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


def test_the_size_of_a_checkpoint_is_known_before_it_is_written(tmp_path: Path) -> None:
    weights = torch.randn(300_000)
    checkpoint = {"state_dict": {"a": weights, "same": weights}, "list": [torch.ones(10, dtype=torch.uint8)]}
    torch.save(checkpoint, tmp_path / "file")
    assert checkpoint_bytes(checkpoint) == pytest.approx((tmp_path / "file").stat().st_size, rel=0.01)


def test_steps_that_will_not_be_reached_are_named(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    callbacks = [
        StepCheckpoint("1,800,1200", dirpath=str(tmp_path)),
        SeedGrid("900", {"g": {"prompts": "x", "seeds": 0}}),
    ]
    trainer(max_steps=1, callbacks=callbacks).fit(DreamBooth(tiny_sd), datamodule=Latents())
    said = capsys.readouterr().err
    assert "step_checkpoint.steps: 800, 1200 will not be reached with trainer.max_steps 1" in said
    assert "seed_grid.steps: 900 will not be reached with trainer.max_steps 1" in said


def test_a_checkpoint_holds_the_recipe_and_no_autoencoder(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    checkpoint = fit(tiny_sd, trainer, tmp_path, 1)
    assert {key.partition(".")[0] for key in checkpoint["state_dict"]} == {"unet", "text_encoder"}
    recipe = checkpoint["recipe"]
    assert recipe["base"].endswith("tiny_sd")
    knobs = {
        "pad_tokens": "maximum",
        "clip_grad_norm": 1.0,
        "latents": "cached",
        "data_hash": "latents",
        "instance_count": 8,
    }
    assert recipe.items() >= (knobs | {"learning_rate": 1e-4, "precision": "32-true"}).items()
    assert recipe["optimizer"] == "bitsandbytes.optim.adamw.AdamW8bit"


def test_pruning_goes_by_steps_and_not_by_file_dates(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    checkpoint = StepCheckpoint("1,2,3", last_every_n_steps=0, keep=2, dirpath=str(tmp_path))

    class ClockGoesBack(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            for path in tmp_path.glob("*.ckpt"):  # saved while the clock was years ahead
                os.utime(path, (2**31, 2**31))

    (tmp_path / "step=mine.ckpt").write_text("a user's file")
    callbacks = [checkpoint, ClockGoesBack()]
    trainer(max_steps=3, callbacks=callbacks).fit(DreamBooth(tiny_sd), datamodule=Latents())
    assert sorted(path.name for path in tmp_path.glob("step=*")) == [
        "step=00002.ckpt",
        "step=00003.ckpt",
        "step=mine.ckpt",
    ]


def test_a_resume_from_weights_that_are_no_numbers_is_refused(tmp_path):
    state = {"unet.a": torch.ones(3), "unet.b": torch.tensor([1.0, float("nan")])}
    torch.save({"state_dict": state, "global_step": 4}, tmp_path / "step=00004.ckpt")
    with pytest.raises(UserError, match=r"step=00004\.ckpt has diverged: unet\.b holds NaN or infinity"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "step=00004.ckpt")
