"""A step that is replayed: what surrounds the graph, on a CPU, where a step is run again instead.

The capture itself needs a GPU: tests/gpu/test_step_graph.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.grids import GridHistory
from helpers.replays import run_again
from helpers.stand_ins import Latents
from lightning.pytorch.plugins import MixedPrecision

from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpointing import AtomicCheckpointIO, StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.fit.step_graph import StepGraph, why_eager

STEPS = 8


class Eager(DreamBooth):
    """Keeps each step's loss and gradient norm, and the graph."""

    losses: list[float]
    norms: list[float]

    def on_train_start(self) -> None:
        super().on_train_start()
        self.losses, self.norms = [], []

    @property
    def graph(self) -> StepGraph | None:
        return self._graph

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(optimizer, *args, **kwargs)
        assert self.watch.grad_norm is not None
        self.norms.append(self.watch.grad_norm.item())


class Replayed(Eager):
    """Runs a step again where a graph would be replayed: into the same gradients, from the same inputs."""

    captures = replays = 0

    def on_train_start(self) -> None:
        super().on_train_start()
        self._graph = self.step_graph(self.record)

    def record(self, step: Callable[[], None], free: Callable[[], None]) -> Callable[[], None]:
        type(self).captures += 1
        return run_again(self, self.graph, step, free, self.count)

    def count(self) -> None:
        type(self).replays += 1


def half_precision() -> list[Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)  # the first steps overflow and are skipped
    return [MixedPrecision("16-mixed", "cpu", scaler=scaler), AtomicCheckpointIO()]


def run(kind: type[Eager], tiny_sd: str, trainer: Any, folder: Path, **options: Any) -> Eager:
    half, memory = options.pop("half", False), options.pop("memory", "full")
    resume = options.pop("resume", None)
    grid = SeedGrid("0,3", {"g": {"prompts": "a tree", "seeds": "0-1"}}, num_inference_steps=1)
    grid.listeners.append(GridHistory())
    callbacks = [StepCheckpoint("", last_every_n_steps=4, dirpath=str(folder)), grid]
    settings = {"max_steps": STEPS, "callbacks": callbacks} | ({"plugins": half_precision()} if half else {})
    module = kind(tiny_sd, learning_rate=1e-3, optimizer=bitsandbytes.optim.AdamW8bit, memory=memory)
    trainer(**(settings | options)).fit(module, datamodule=Latents(), ckpt_path=resume)
    return module


def check_same_weights(folder: Path) -> None:
    one, other = (read_checkpoint(folder / name / "last.ckpt")["state_dict"] for name in "ab")
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(
    ("half", "memory"), [(False, "full"), (True, "full"), (True, "split")], ids=["float32", "full", "split"]
)
def test_a_fit_of_replayed_steps_is_the_eager_one(
    tiny_sd: str, trainer: Any, tmp_path: Path, half: bool, memory: str
) -> None:
    eager = run(Eager, tiny_sd, trainer, tmp_path / "a", half=half, memory=memory)
    Replayed.captures = Replayed.replays = 0
    graphed = run(Replayed, tiny_sd, trainer, tmp_path / "b", half=half, memory=memory)
    assert graphed.graph is not None
    assert not graphed.graph.refused
    assert Replayed.captures == 2  # after the grid at step 3 once more
    assert Replayed.replays == STEPS + 2  # each is tried first
    assert graphed.losses == eager.losses
    assert graphed.norms == eager.norms or half  # infinite ones are not equal to themselves
    check_same_weights(tmp_path)


def test_a_resumed_fit_of_replayed_steps_is_the_unbroken_one(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    run(Eager, tiny_sd, trainer, tmp_path / "a")
    run(Replayed, tiny_sd, trainer, tmp_path / "b", max_steps=4)
    run(Replayed, tiny_sd, trainer, tmp_path / "b", resume=tmp_path / "b" / "last.ckpt")
    check_same_weights(tmp_path)


class Wrong(Replayed):
    """Its replays make other gradients."""

    def record(self, step: Callable[[], None], free: Callable[[], None]) -> Callable[[], None]:
        replay = super().record(step, free)
        assert self.graph is not None
        kept = [p.grad for p in self.parameters() if p.grad is not None]

        def wrong() -> None:
            replay()
            kept[0].mul_(1.01)

        return wrong


class Failing(Replayed):
    """Cannot be captured."""

    def record(self, step: Callable[[], None], free: Callable[[], None]) -> Callable[[], None]:
        step()
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Wrong, "it does not make the numbers of the eager step"), (Failing, "RuntimeError: operation not")],
)
def test_what_cannot_be_replayed_is_told_once_and_stays_eager(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any, kind: type[Eager], why: str
) -> None:
    run(Eager, tiny_sd, trainer, tmp_path / "a")
    module = run(kind, tiny_sd, trainer, tmp_path / "b")
    assert module.graph is not None
    assert module.graph.refused
    told = [line for line in capsys.readouterr().err.splitlines() if "CUDA graph" in line]
    assert len(told) == 1
    assert f"training steps are not replayed as a CUDA graph: {why}" in told[0]
    check_same_weights(tmp_path)


def test_inputs_of_another_shape_are_taken_eagerly_and_moved_weights_are_captured_again() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    captured = []

    def record(step: Callable[[], None], free: Callable[[], None]) -> Callable[[], None]:
        captured.append(weight.data_ptr())
        step()
        kept = weight.grad

        def replay() -> None:
            free()
            step()
            kept.copy_(weight.grad)

        return replay

    graph = StepGraph(lambda x: (x * weight).sum(), lambda loss: loss * 2, [weight], record)
    assert graph(torch.full((3,), 5.0)) == 15
    assert weight.grad.tolist() == [10, 10, 10]
    assert graph(torch.ones(2, 3)) is None
    assert graph(torch.full((3,), 4.0)) == 12
    weight.data = torch.full((3,), 2.0)
    assert graph(torch.full((3,), 4.0)) == 24
    assert weight.grad.tolist() == [8, 8, 8]
    assert len(set(captured)) == len(captured) == 2


@pytest.mark.parametrize(
    ("options", "settings", "why"),
    [
        ({}, {}, ""),
        ({"memory": "deferred"}, {}, "model.memory deferred"),
        ({"gradient_checkpointing": True}, {}, "model.gradient_checkpointing"),
        ({}, {"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches"),
    ],
)
def test_why_a_fit_is_eager(
    tiny_sd: str, trainer: Any, options: dict[str, Any], settings: dict[str, Any], why: str
) -> None:
    told = why_eager(DreamBooth(tiny_sd, **options), trainer(**settings))
    assert told.startswith(why)
    assert bool(told) == bool(why)
