"""Shares of a sweep: several processes, killed or not, make the files of one; the last command reports."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.fits import fit_checkpoint
from helpers.paths import DATA, ROOT
from lightning.pytorch import Trainer
from PIL import Image

from lightning_drift.cli import main
from lightning_drift.common.rng import generator
from lightning_drift.prints.images import UpscaleImages
from lightning_drift.sweep.data import Sweep
from lightning_drift.sweep.shares import own_batches
from lightning_drift.sweep.sweep_dreamer import SweepDreamer

CONFIG = ROOT / "configs" / "sweep.yaml"
SMALL = (
    "--data.seeds=0-1",
    "--data.guidance_scale=1,3",
    "--data.num_inference_steps=1,2",
    "--data.batch_size=2",
)


def moved(key: str, tensor: Any) -> Any:
    import torch

    return tensor + 0.08 * tensor.std() * torch.randn(tensor.shape, generator=generator(0, key))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A fine-tune of the tiny model."""
    path = tmp_path_factory.mktemp("tuned") / "step=01200.ckpt"
    return str(fit_checkpoint(path, str(DATA / "tiny_sd"), moved))


def words(folder: Path, tuned: str, *more: str) -> list[str]:
    return [
        *("predict", "-c", str(CONFIG), "--data.checkpoints", tuned, "--data.prompts", "a red tower"),
        *("--data.drift=0,0.5,1", "--data.clip=pocket", "--model.cache_dir=null", "--data.sheets=2"),
        *("--trainer.enable_progress_bar=false", "--image_writer.output_dir", str(folder / "sweep"), *more),
    ]


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in (folder / "sweep").rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def without_place(files: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """The page names its own folder, for commands."""
    return {name: data.replace(str(folder).encode(), b"") for name, data in files.items()}


def test_shares_hold_whole_batches_of_few_models_and_are_even_in_work(tuned: str) -> None:
    options: dict[str, Any] = {
        "prompts": ["a", "b"], "seeds": "0-4", "num_inference_steps": "1,9", "drift": "0,0.5,1",
        "sampling_drift": "0.5,1", "batch_size": 4,
    }  # fmt: skip
    module = SweepDreamer(drift_map=True)
    every = own_batches(Sweep(tuned, **options), module)
    shares = [own_batches(Sweep(tuned, **options, share=f"{k}/3"), module) for k in (1, 2, 3)]

    def names(batches: list[Any]) -> list[list[str]]:
        return [[module.describe(request)[0] for request in batch] for batch in batches]

    assert names([batch for share in shares for batch in share]) == names(every)
    taken = [
        sum(batch[0].num_inference_steps * (2 if batch[0].model.base else 1) for batch in share)
        for share in shares
    ]
    assert max(taken) - min(taken) <= 2 * 18
    models = [[(batch[0].model.name, batch[0].drift) for batch in share] for share in shares]
    assert all(sum(a != b for a, b in pairwise(share)) == len(set(share)) - 1 for share in models)


def test_shares_and_a_last_command_make_the_files_of_one_process(
    tuned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    one, many = tmp_path / "one", tmp_path / "many"
    assert main(words(one, tuned, *SMALL)) == 0
    expected = files_of(one)
    count = sum(name.startswith("sweep/images/") for name in expected)
    assert count == 24  # cells, of which those at a drift of 0 are the base's pictures
    capsys.readouterr()
    assert main(words(many, tuned, *SMALL, "--data.share=2/3", "--dry_run")) == 0
    said = capsys.readouterr().out
    assert "cells    24\nshare    2/3, counted below; all shares have 24 images\nimages   8\n" in said
    made: set[str] = set()
    for number in (2, 3, 1):
        # A report of its own is nothing that a share needs or writes.
        share = f"--data.share={number}/3"
        assert main(words(many, tuned, *SMALL, share, "--image_writer.contact_sheet=true")) == 0
        said = capsys.readouterr().out
        assert (
            f"Share {number}/3 is done; once all are, the same command without data.share writes the report "
            "and the contact sheet"
        ) in said
        assert "8 pictures written" in said
        new = set(files_of(many)) - made
        assert len(new) == 8
        assert all(name.startswith("sweep/images/") for name in new)
        made |= new
    assert main(words(many, tuned, *SMALL)) == 0
    said = capsys.readouterr().out
    assert "0 pictures written" in said
    assert without_place(files_of(many), many) == without_place(expected, one)


def test_more_shares_than_batches_are_empty_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    few = ("--data.num_inference_steps=1", "--data.seeds=0-1", "--data.batch_size=2")
    for number, pictures in ((1, 0), (2, 2), (3, 0)):
        words_ = words(tmp_path, str(DATA / "tiny_sd"), *few, f"--data.share={number}/3")
        assert main(words_) == 0
        told = capsys.readouterr()
        empty = f"share {number}/3 is empty: there are fewer batches (1) than shares"
        assert (empty in told.err) == (pictures == 0)
        assert f"Share {number}/3 is done" in told.out
        assert f"{pictures} pictures written" in told.out
        assert "zero" not in told.err
    assert len(files_of(tmp_path)) == 2


def test_every_device_of_a_share_has_a_batch(tuned: str, tmp_path: Path) -> None:
    """Lightning's sampler refuses a device without one."""
    trainer = Trainer(accelerator="cpu", devices=3, strategy="ddp", logger=False, default_root_dir=tmp_path)
    trainer.strategy.connect(SweepDreamer())
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    sweep = Sweep(str(DATA / "tiny_sd"), prompts="x", seeds="0-3", batch_size=2)
    for data, items in ((sweep, 2), (UpscaleImages(str(tmp_path)), 1)):
        data.trainer = trainer
        loader = data.predict_dataloader()
        assert len(loader.dataset) == 3  # type: ignore[arg-type]
        assert [bool(batch) for batch in loader] == [True] * items + [False] * (3 - items)


def test_a_share_refuses_what_a_sweep_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    few = ("--data.num_inference_steps=1", "--data.seeds=0", "--data.share=1/2")
    tiny = str(DATA / "tiny_sd")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.html").write_text("mine")
    assert main(words(tmp_path, tiny, *few)) == 2
    assert "holds sweep.html, which no sweep wrote" in capsys.readouterr().err
    assert main(words(tmp_path / "b", tiny, *few, "--data.photos=nowhere")) == 2
    assert "data.photos: there is no folder nowhere" in capsys.readouterr().err
    assert main(words(tmp_path / "b", tiny, *few, "--data.share=3/2")) == 2
    assert "data.share: 3/2 is out of range; give 1/2 to 2/2" in capsys.readouterr().err


@pytest.mark.slow
def test_four_processes_at_once_one_of_them_killed_make_the_files_of_one(tuned: str, tmp_path: Path) -> None:
    large = ("--data.seeds=0-4", "--data.guidance_scale=1,2,3,5", "--data.num_inference_steps=1,2,3,4,6")
    large = (*large, "--data.drift=0.5,1", "--data.batch_size=4")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder: Path, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_drift", *words(folder, tuned, *large, *more)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(process: subprocess.Popen[str]) -> str:
        said = process.communicate(timeout=600)[0]
        assert process.returncode == 0, said[-3000:]
        return said

    one, many = tmp_path / "one", tmp_path / "many"
    finish(start(one))
    assert "cells    200" in finish(start(many, "--data.share=1/4", "--dry_run"))
    processes = [start(many, f"--data.share={number}/4") for number in (1, 2, 3, 4)]
    second = SweepDreamer()
    own = own_batches(
        Sweep(
            tuned, prompts="a red tower", seeds="0-4", guidance_scale="1,2,3,5", drift="0.5,1", batch_size=4,
            num_inference_steps="1,2,3,4,6", share="2/4",
        ),
        second,
    )  # fmt: skip
    places = [many / "sweep" / f"{second.describe(request)[0]}.png" for batch in own for request in batch]
    while sum(map(os.path.exists, places)) < 5:
        assert processes[1].poll() is None
        time.sleep(0.002)
    processes[1].send_signal(signal.SIGKILL)
    processes[1].communicate()
    assert 5 <= sum(map(os.path.exists, places)) < len(places)
    for process in (processes[0], *processes[2:]):
        finish(process)
    repeated = finish(start(many, "--data.share=2/4"))
    assert "were there already" in repeated
    assert set(files_of(many)) == {name for name in files_of(one) if name.startswith("sweep/images/")}
    assert "0 pictures written" in finish(start(many))
    assert without_place(files_of(many), many) == without_place(files_of(one), one)
