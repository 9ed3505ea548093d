"""The captured step, which needs an NVIDIA GPU. None of this has been run on one yet."""

from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.stand_ins import Latents
from lightning.pytorch import Callback, Trainer

from lightning_drift.fit.dreambooth import DreamBooth

pytestmark = pytest.mark.gpu


class Watched(DreamBooth):
    """Keeps each step's loss and gradient norm."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        assert self.watch.grad_norm is not None
        self.seen.append((self.watch._losses[-1].clone(), self.watch.grad_norm.clone()))
        super().on_train_batch_end(*args)


class NoWaiting(Callback):
    """Has PyTorch raise where a step waits for the device, once all is warm."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 2 else "default")

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


def trainer_of(steps: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        accelerator="gpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        precision="16-mixed",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[*callbacks],
    )


def fit(memory: str, graph: bool) -> Watched:
    module = Watched(
        "pocket", learning_rate=4e-5, optimizer=bitsandbytes.optim.AdamW8bit, memory=memory, cuda_graph=graph
    )
    trainer = trainer_of(20)
    torch.backends.cudnn.deterministic = True
    trainer.fit(module, datamodule=Latents())
    return module


@pytest.mark.parametrize("memory", ["full", "split"])
def test_a_captured_fit_makes_the_losses_and_weights_of_the_eager_one(memory: str) -> None:
    eager, graphed = fit(memory, False), fit(memory, True)
    assert graphed._graph is not None
    assert not graphed._graph.refused
    for one, other in zip(eager.seen, graphed.seen, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.allclose(one[1], other[1], rtol=1e-3, equal_nan=True)
    states = eager.state_dict(), graphed.state_dict()
    moved = max((states[0][name] - states[1][name]).abs().max().item() for name in states[0])
    assert moved < 4e-5 * 20


def test_the_device_is_not_waited_for_between_logged_steps() -> None:
    module = DreamBooth(
        "pocket",
        optimizer=bitsandbytes.optim.AdamW8bit,
        memory="split",
        log_every_n_steps=1000,
        weight_change_every_n_steps=0,
    )

    trainer = trainer_of(8, NoWaiting())
    trainer.fit(module, datamodule=Latents())
    assert trainer.global_step == 8
