"""What the pocket's trainings share: moving averages, schedule, checkpoints by the clock, the run."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_drift.common.errors import UserError
from lightning_drift.fit.checkpointing import AtomicCheckpointIO
from training.pocket.scenes import Batches, Scenes


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage trains.

    The rate rises over ``warmup`` steps, stays, and falls along a cosine to a fiftieth over the last
    ``cooldown`` of all steps. It is a function of the step alone; a run whose ``steps`` are raised goes on at
    the full rate.

    Attributes:
        steps: Optimizer steps in all.
        batch_size: Scenes in a step.
        learning_rate: The full rate.
        warmup: Steps of linear rise.
        cooldown: Fraction of the steps with a falling rate, 0..1.
        seed: Seed of initialisation, order and noise.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    cooldown: float = 0.4
    seed: int = 0

    def with_options(self, options: Any) -> Schedule:
        """This schedule with what the options of `add_training_options` set otherwise."""
        given = {name: getattr(options, name) for name in ("steps", "batch_size", "learning_rate", "seed")}
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(self, cooldown=options.cooldown, **changes)

    @contextmanager
    def initialisation(self) -> Iterator[None]:
        """Within it torch draws from the schedule's seed; afterwards it goes on as if nothing was drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield

    def factor(self, step: int) -> float:
        """The rate at a step as a fraction of the full rate."""
        rise = min(1.0, (step + 1) / self.warmup)
        begin = self.steps * (1 - self.cooldown)
        if step <= begin or self.steps <= begin:
            return rise
        part = min((step - begin) / (self.steps - begin), 1.0)
        return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))


def check_stage(name: str, stages: Iterable[str]) -> None:
    """Refuse the name of a stage that does not exist.

    Raises:
        UserError: It is none of the stages.
    """
    if name not in stages:
        raise UserError(f"there is no stage {name!r}; the stages are {', '.join(stages)}")


class Stage(LightningModule):
    """A network that trains on scenes, and the moving average of its weights that is shipped.

    Args:
        model: The network to train.
        schedule: How long and how fast.
        scenes: The scenes to train on.
        captions: Whether the stage reads captions.
        ema_decay: Decay of the moving average; early on it is lower, ``(1 + step) / (20 + step)``.
    """

    model: Any
    ema: Any

    def __init__(
        self, model: nn.Module, schedule: Schedule, scenes: Scenes, captions: bool, ema_decay: float = 0.999
    ) -> None:
        super().__init__()
        self.model = model.train()
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        self.schedule = schedule
        self.scenes = scenes
        self.captions = captions
        self.ema_decay = ema_decay
        self.workers = 0
        self.recent: list[dict[str, Tensor]] = []

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what to log of it."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the moving average as fp16 in the layout of its library."""
        raise NotImplementedError

    def note(self, values: dict[str, float]) -> None:
        """Log measured values at the present step."""
        for logger in self.loggers:
            logger.log_metrics(values, self.global_step)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step; logs ``train/*``."""
        loss, values = self.loss(batch)
        values = values | {"loss": loss.detach()}
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        self.recent.append(values)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip gradients to norm 1; Lightning's own clipping refuses fused optimizers."""
        self.log("train/grad_norm", torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the average, before any callback may save."""
        super().optimizer_step(*args, **kwargs)
        decay = min(self.ema_decay, (1 + self.global_step) / (20 + self.global_step))
        with torch.no_grad():
            targets: list[Tensor] = list(self.ema.parameters())
            sources: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(targets, sources, 1 - decay)

    def configure_optimizers(self) -> Any:
        """AdamW with the schedule's rate at every step."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        plain = [p for p in trained if p.ndim <= 1]
        groups: Iterable[dict[str, Any]] = (
            {"params": decayed, "weight_decay": 0.01},
            {"params": plain, "weight_decay": 0.0},
        )
        optimizer = torch.optim.AdamW(groups, self.schedule.learning_rate, betas=(0.9, 0.99), fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> Any:
        """Batches from the step that a resumed run has reached."""
        schedule = self.schedule
        return Batches(
            self.scenes, schedule.batch_size, schedule.seed, self.trainer.global_step, self.captions
        ).loader(self.workers)


def plain_attention(module: nn.Module) -> None:
    """Attention without the fused kernel where there is no GPU: on a CPU it is slow to go back through."""
    if torch.cuda.is_available():
        return
    for part in module.modules():
        if hasattr(part, "set_processor"):
            part.set_processor(AttnProcessor())  # type: ignore[operator]


class Keeper(Callback):
    """Saves ``last.ckpt`` and the averaged weights every few minutes and at the end, and prints progress.

    Args:
        folder: Where to save.
        minutes: Time between checkpoints.
        print_every: Steps between printed lines.
        stop_after: Minutes after which the training stops, to go on another time; None for none.
    """

    def __init__(
        self, folder: Path, minutes: float, print_every: int = 100, stop_after: float | None = None
    ) -> None:
        self.folder, self.minutes, self.print_every = folder, minutes, print_every
        self._end = None if stop_after is None else time.monotonic() + 60 * stop_after
        self._saved = time.monotonic()
        self._lap = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save when it is time."""
        step = trainer.global_step
        if step % self.print_every == 0 and isinstance(pl_module, Stage) and pl_module.recent:
            recent, pl_module.recent = pl_module.recent, []
            means = {name: sum(float(values[name]) for values in recent) / len(recent) for name in recent[0]}
            values = " ".join(f"{name} {mean:.4f}" for name, mean in means.items())
            now = time.monotonic()
            print(
                f"step {step}  {(now - self._lap) / self.print_every * 1000:.0f} ms/step  {values}",
                flush=True,
            )
            self._lap = now
        if time.monotonic() - self._saved > self.minutes * 60:
            self.save(trainer, pl_module)
        if self._end is not None and time.monotonic() > self._end:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        self.save(trainer, pl_module)

    def save(self, trainer: Trainer, stage: LightningModule) -> None:
        """Write the checkpoint, then the weights for use."""
        assert isinstance(stage, Stage)
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
        stage.save(self.folder / "weights")
        self._saved = time.monotonic()


def train(
    stage: Stage,
    folder: Path,
    precision: Any = "bf16-mixed",
    minutes: float = 4.0,
    workers: int = 0,
    stop_after: float | None = None,
) -> None:
    """Train a stage to its last step, going on from ``folder/last.ckpt`` if there is one.

    A run that was killed and goes on ends in the same weights as one that was not (tested on the CPU in
    fp32).

    Args:
        stage: What to train.
        folder: Checkpoint, averaged weights and TensorBoard log lie here.
        precision: Lightning's precision; bf16 autocast is 1.5 to 2 times as fast as fp32 on a CPU with
            AVX512-BF16.
        minutes: Time between checkpoints.
        workers: Processes that prepare batches.
        stop_after: Minutes after which to stop; None trains to the last step.
    """
    stage.workers = workers
    last = folder / "last.ckpt"
    trainer = Trainer(
        max_steps=stage.schedule.steps,
        precision=precision,
        accelerator="auto",
        devices=1,
        logger=TensorBoardLogger(folder, name="log", version=0, default_hp_metric=False),
        callbacks=[Keeper(folder, minutes, stop_after=stop_after)],
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=25,
    )
    trainer.fit(stage, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
