"""The progress bar: optimizer steps towards ``max_steps`` or batches of pictures, with the time left."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lightning_drift.fit.bar_names import FIT_BAR


class StepProgressBar(TQDMProgressBar):
    """Counts optimizer steps, not the batches of an epoch, and goes on counting after a resume.

    Args:
        refresh_rate: Update every so many optimizer steps.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin at the step resumed from; the speed is that of this session."""
        self.train_progress_bar = Tqdm(
            desc=FIT_BAR,
            total=trainer.max_steps if trainer.max_steps > 0 else None,
            initial=trainer.global_step,
            unit="step",
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,
        )

    def init_validation_tqdm(self) -> Tqdm:
        """None: a ``validate`` run renders grids, which show their own progress."""
        return Tqdm(disable=True)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """The stream of positions has no epochs; the bar goes on."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move on by whole optimizer steps."""
        bar, step = self.train_progress_bar, trainer.global_step
        if step > bar.n and (step % self.refresh_rate == 0 or step == bar.total):
            bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
            bar.update(step - bar.n)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The metrics without Lightning's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
