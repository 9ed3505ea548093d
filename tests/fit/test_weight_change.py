"""The relative change of the weights, from a sample of each tensor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.weight_change import SAMPLES, WeightChange, block_of
from lightning_drift.photos.instance_images import InstanceImages


def change_where(module: nn.Module, place: Any) -> float:
    """The measured change after 1 is added to some of a module's weights, which are alike."""
    with torch.no_grad():
        module.weight.fill_(1.0)
        watch = WeightChange({"unet": module})
        module.weight[place] += 1.0
        return watch.measure({"unet": module})["unet"]


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", range(3))
def test_every_position_of_a_kernel_is_measured(row: int, column: int) -> None:
    convolution = nn.Conv2d(640, 640, 3, bias=False)
    change = change_where(convolution, (..., row, column))
    assert change == pytest.approx((1 / 9) ** 0.5, rel=0.05)


@pytest.mark.parametrize("outputs", [10240, 640])
def test_every_block_of_columns_of_a_matrix_is_measured(outputs: int) -> None:
    matrix = nn.Linear(1280, outputs, bias=False)
    for start in range(0, 1280, 40):
        change = change_where(matrix, (slice(None), slice(start, start + 40)))
        assert change == pytest.approx((1 / 32) ** 0.5, rel=0.2)


def test_the_squared_norm_has_no_bias() -> None:
    # A size just above the sample's: some elements are drawn twice, some never.
    step = torch.randn((1, 20_000), generator=torch.Generator().manual_seed(0))
    squares = []
    for number in range(200):
        module = nn.Linear(20_000, 1, bias=False)
        module.weight.data = torch.ones_like(step)
        watch = WeightChange({f"part{number}": module})
        module.weight.data += step
        squares.append(watch.measure({f"part{number}": module})[f"part{number}"] ** 2)
    deviation = torch.tensor(squares).std().item()
    exact = step.square().mean().item()
    assert 0.001 < deviation < 0.02
    assert sum(squares) / len(squares) == pytest.approx(exact, abs=4 * deviation / len(squares) ** 0.5)


def test_small_tensors_are_measured_exactly_and_by_block() -> None:
    source = torch.Generator().manual_seed(0)
    net = nn.ModuleDict({"conv_in": nn.Linear(128, 128), "mid_block": nn.Linear(64, 64)})
    watch = WeightChange({"unet": net})
    moved, size = {"conv_in": 0.0, "mid_block": 0.0}, {"conv_in": 0.0, "mid_block": 0.0}
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            assert parameter.numel() <= SAMPLES
            step = torch.randn(parameter.shape, generator=source)
            size[name.partition(".")[0]] += parameter.double().square().sum().item()
            parameter += step
            moved[name.partition(".")[0]] += step.double().square().sum().item()
    measured = watch.measure({"unet": net})
    for block in moved:
        assert measured[f"unet/{block}"] == pytest.approx((moved[block] / size[block]) ** 0.5, rel=1e-5)
    total = (sum(moved.values()) / sum(size.values())) ** 0.5
    assert measured["unet"] == pytest.approx(total, rel=1e-5)


class Watched(DreamBooth):
    """Remembers what it measured, step by step."""

    def on_train_batch_end(self, *args: Any) -> None:
        self.changes = getattr(self, "changes", {}) | {self.global_step: self.weight_changes()}


def fit_pocket(trainer: Any, folder: Path, steps: int, resume: Path | None = None) -> Watched:
    module = Watched("pocket", "a photo of sks cup", learning_rate=1e-4)
    save = StepCheckpoint("2", last_every_n_steps=0, dirpath=str(folder))
    data = InstanceImages("coffee", cache_dir=None)
    trainer(max_steps=steps, callbacks=[save]).fit(module, datamodule=data, ckpt_path=resume)
    return module


def test_the_estimate_is_near_the_exact_change_of_the_pocket_and_a_resume_measures_the_same(
    trainer: Any, tmp_path: Path
) -> None:
    module = fit_pocket(trainer, tmp_path / "whole", 4)
    base = DreamBooth("pocket")
    base.configure_model()
    moved: dict[str, float] = {}
    size: dict[str, float] = {}
    large = 0
    for part, weights in module.trained().items():
        start = dict(base.trained()[part].named_parameters())
        for name, parameter in weights.named_parameters():
            large += parameter.numel() > SAMPLES
            before, after = start[name].detach().double(), parameter.detach().double()
            for key in (part, block_of(f"{part}.{name}")):
                moved[key] = moved.get(key, 0.0) + (after - before).square().sum().item()
                size[key] = size.get(key, 0.0) + before.square().sum().item()
    assert large > 20
    exact = {key: (moved[key] / size[key]) ** 0.5 for key in moved}
    assert module.changes[4] == pytest.approx(exact, rel=0.03)

    checkpoint = tmp_path / "whole" / "step=00002.ckpt"
    assert read_checkpoint(checkpoint)["global_step"] == 2
    resumed = fit_pocket(trainer, tmp_path / "resumed", 4, checkpoint)
    assert resumed.changes == {step: module.changes[step] for step in (3, 4)}
