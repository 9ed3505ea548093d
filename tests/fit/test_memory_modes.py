"""Every memory mode through the real command, and 200 steps of the pocket model in each."""

import sys
import time
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.commands import finish, scalars, start
from helpers.paths import DATA
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file

from lightning_drift.cli import main
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.photos.instance_images import InstanceImages

HALF = """
trainer:
  precision: null
  plugins:
    - class_path: lightning.pytorch.plugins.MixedPrecision
      init_args:
        precision: 16-mixed
        device: cpu
        scaler: {class_path: torch.amp.GradScaler, init_args: {device: cpu, init_scale: 16777216.0}}
model:
  init_args: {optimizer: bitsandbytes.optim.AdamW8bit, log_every_n_steps: 1}
"""
FIT = [
    f"--model.pipeline={DATA / 'tiny_sd'}",
    "--step_checkpoint.last_every_n_steps=1",
    "--step_checkpoint.steps=2",
    "--seed_grid.steps=0",
    "--seed_grid.num_inference_steps=2",
    "--seed_grid.groups={dream: {prompts: a tree, seeds: 0-1}}",
    "--clip_drift.clip=null",
]
STEPS = 15


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: Any) -> Path:
    """The run folder of a fit with float32 weights."""
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "half.yaml").write_text(HALF)
    finish(start(folder, "-c", "half.yaml", *FIT, f"--trainer.max_steps={STEPS}"), folder)
    return folder / "tb_logs/coffee/lr4e-5_000"


def same(run: Path, unbroken: Path) -> None:
    one, other = (read_checkpoint(folder / "checkpoints/last.ckpt") for folder in (run, unbroken))
    assert one["global_step"] == other["global_step"] == STEPS
    assert one["MixedPrecision"] == other["MixedPrecision"]
    assert one["state_dict"].keys() == other["state_dict"].keys()
    gaps = [(one["state_dict"][name] - weight).abs().max() for name, weight in other["state_dict"].items()]
    assert max(gaps) < 1e-9
    points = [scalars(folder) for folder in (run, unbroken)]
    for tag in ("train/loss", "train/grad_norm"):  # as text: a skipped step's norm is NaN
        assert str(points[0][tag]) == str(points[1][tag])


def test_a_fit_goes_from_mode_to_mode(unbroken: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-drift"])
    monkeypatch.delenv("LIGHTNING_DRIFT_RUN", raising=False)
    Path("half.yaml").write_text(HALF)
    run = Path("tb_logs/coffee/lr4e-5_000")
    words = ["-c", "half.yaml", *FIT]
    for number, memory in enumerate(MEMORY_MODES, 1):
        steps = STEPS * number // len(MEMORY_MODES)
        status = main(["fit", *words, f"--model.memory={memory}", f"--trainer.max_steps={steps}"])
        assert status == 0, capsys.readouterr().err
        assert read_checkpoint(run / "checkpoints/last.ckpt")["recipe"]["memory"] == memory
        words = ["-c", str(run / "config.yaml"), "--ckpt_path=last"]
    same(run, unbroken)
    assert main(["validate", *words]) == 0, capsys.readouterr().err
    exported = []
    for name, folder in (("one", run), ("other", unbroken)):
        source = str(folder / "checkpoints/last.ckpt")
        assert main(["export", f"--ckpt_path={source}", f"--to={name}.safetensors"]) == 0, (
            capsys.readouterr().err
        )
        exported.append(load_file(f"{name}.safetensors"))
    for name, tensor in exported[1].items():
        assert torch.allclose(exported[0][name], tensor, rtol=0, atol=1e-9), name


def test_a_killed_fit_goes_on_in_a_smaller_mode(unbroken: Path, tmp_path: Path) -> None:
    (tmp_path / "half.yaml").write_text(HALF)
    run = tmp_path / "tb_logs/coffee/lr4e-5_000"
    process = start(
        tmp_path, "-c", "half.yaml", *FIT, f"--trainer.max_steps={STEPS}", "--model.memory=deferred"
    )
    until = time.monotonic() + 240
    while not (run / "checkpoints/step=00002.ckpt").exists():
        assert process.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
        assert time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.wait()
    onward = ["-c", str(run / "config.yaml"), "--ckpt_path=last", "--model.memory=paged"]
    finish(start(tmp_path, *onward), tmp_path)
    same(run, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [*MEMORY_MODES][1:])
def test_two_hundred_steps_of_the_pocket(memory: str, trainer: Any) -> None:
    if not _kept:
        _kept["full"] = long_fit(trainer, "full")
    losses, norms, weights = _kept["full"]
    other_losses, other_norms, other = long_fit(trainer, memory)
    finite = [norm for norm in norms if norm < float("inf")]
    assert len(finite) < len(norms) == 200, "some steps are skipped"
    assert sum(norm > 1 for norm in finite) > 5, "clipping acts"
    assert other_losses == losses
    assert [norm for norm in other_norms if norm < float("inf")] == finite
    gap = max((other[name] - weight).abs().max().item() for name, weight in weights.items())
    print(f"{memory}: 200 losses equal, largest gap of a weight {gap:.2e}")
    assert gap < 1e-9


_kept: dict[str, Any] = {}


def long_fit(trainer: Any, memory: Any) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    losses, norms = [], []

    class Watched(DreamBooth):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            super().configure_gradient_clipping(*args, **kwargs)
            norms.append(self.watch.grad_norm.item())

    module = Watched(
        "pocket",
        "a photo of sks cup",
        learning_rate=4e-5,
        optimizer=bitsandbytes.optim.AdamW8bit,
        memory=memory,
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    trainer(max_steps=200, plugins=plugins).fit(module, datamodule=InstanceImages("coffee"))
    return losses, norms, {name: tensor.clone() for name, tensor in module.state_dict().items()}
