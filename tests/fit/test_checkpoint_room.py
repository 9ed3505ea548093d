"""The disk that checkpoints take is known before a fit begins."""

import os
import shutil
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.stand_ins import Latents

from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpoint_room import room_needed, saved_files
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.forecast.state import state_bytes
from lightning_drift.stable_diffusion.loading import load_stable_diffusion


def by_hand(steps: list[int], every: int, keep: int | None, end: int, folder: Path) -> tuple[int, int]:
    """What `StepCheckpoint` does, on files of one byte: bytes at most at once, and in the end."""

    def used() -> int:
        return len({path.stat().st_ino for path in folder.iterdir()})

    most, before = used(), used()
    for step in range(1, end + 1):
        path, last = folder / f"step={step:05d}.ckpt", folder / "last.ckpt"
        if step in steps:
            (folder / "new").write_bytes(b"a")
            most = max(most, used())
            os.replace(folder / "new", path)
            saved = sorted(folder.glob("step=*.ckpt"), reverse=True)
            for old in saved[keep:] if keep else []:
                old.unlink()
        if step % every == 0 or step == end:
            if step in steps:
                os.link(path, folder / "new")
            else:
                (folder / "new").write_bytes(b"a")
                most = max(most, used())
            os.replace(folder / "new", last)
    return most - before, used() - before


@pytest.mark.parametrize("keep", [None, 1, 2])
@pytest.mark.parametrize(("steps", "every"), [([8, 12, 16], 2), ([3, 5, 15], 4), ([], 5), ([16], 16)])
def test_room_is_what_saving_takes(steps: list[int], every: int, keep: int | None, tmp_path: Path) -> None:
    counted = room_needed(steps, every, keep, 0, 16, 1, {})
    assert counted == by_hand(steps, every, keep, 16, tmp_path)


def test_a_resume_counts_what_is_there(tmp_path: Path) -> None:
    for name in ("step=00800.ckpt", "step=01200.ckpt"):
        (tmp_path / name).write_bytes(bytes(10))
    os.link(tmp_path / "step=01200.ckpt", tmp_path / "last.ckpt")
    there = saved_files(tmp_path)
    # last.ckpt of step 1400 and the file of step 1600 while it is written; the first is then replaced.
    assert room_needed([800, 1200, 1600], 200, None, 1200, 1600, 10, there) == (20, 10)
    assert room_needed([800, 1200, 1600], 200, 1, 1200, 1600, 10, there)[1] == -10
    assert room_needed([800, 1200, 1600], 200, None, 1600, 1600, 10, there) == (0, 0)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, bitsandbytes.optim.AdamW8bit])
def test_a_checkpoint_is_as_large_as_foreseen(
    tiny_sd: str, trainer: Any, tmp_path: Path, optimizer: Any
) -> None:
    model = load_stable_diffusion(tiny_sd)
    parameters = [p for part in (model.unet, model.text_encoder) for p in part.parameters()]
    foreseen = 4 * sum(p.numel() for p in parameters) + (state_bytes(optimizer, {}, parameters) or 0)
    module = DreamBooth(tiny_sd, optimizer=optimizer)
    saver = StepCheckpoint("1", dirpath=str(tmp_path / "checkpoints"))
    trainer(max_steps=1, callbacks=[saver]).fit(module, datamodule=Latents())
    size = (tmp_path / "checkpoints" / "last.ckpt").stat().st_size
    overhead = 2048 * len(parameters)  # names and headers
    assert foreseen <= size <= foreseen + overhead


def test_a_fit_that_the_disk_cannot_hold_does_not_begin(
    tiny_sd: str, trainer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=70 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    folder = tmp_path / "checkpoints"

    def fit(steps: str, **options: Any) -> DreamBooth:
        module = DreamBooth(tiny_sd)
        saver = StepCheckpoint(steps, dirpath=str(folder), **options)
        trainer(max_steps=3, callbacks=[saver]).fit(module, datamodule=Latents())
        return module

    with pytest.raises(UserError, match=r"step_checkpoint: this fit could not end: .* 70\.00 MiB are free"):
        fit("1,2,3", last_every_n_steps=1)
    assert not folder.exists()
