"""Trainings that are stopped and go on, and what they leave."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.pocket.run import Stage, train


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of a stage's last checkpoint."""
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert state["global_step"] > 0
    values = dict(state["state_dict"])
    for number, moments in state["optimizer_states"][0]["state"].items():
        values |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    return values


def train_with_a_break(
    build: Callable[[], Stage], folder: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """Train a stage that dies at a step, train it anew to its end, and give its `tensors`."""
    stage = build()
    step = type(stage).training_step

    def dying(self, batch, batch_idx):
        if self.global_step == at:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(type(stage), "training_step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        train(stage, folder, precision="32-true", minutes=0.0)  # saves after every step
    monkeypatch.setattr(type(stage), "training_step", step)
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == at
    train(build(), folder, precision="32-true")
    return tensors(folder)


def link_weights(source: Path, target: Path, *names: str) -> None:
    """Give a state folder the averaged weights of another one's stages."""
    for name in names:
        (target / name).mkdir()
        (target / name / "weights").symlink_to(source / name / "weights")
