"""LogSteps: what each optimizer step of a fit writes to the logger."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

if TYPE_CHECKING:
    from lightning_drift.fit.dreambooth import DreamBooth


class LogSteps(Callback):
    """Logs steps of a `DreamBooth`, under the number of steps taken, before anything saves them.

    It is a callback, because Lightning runs callbacks that save after all others, and the module's own hook
    after these: a run that is killed between the two would go on behind a step that was never logged.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what the last optimizer step did, if one ended with this batch."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        module: DreamBooth = pl_module  # type: ignore[assignment]
        step, loss = trainer.global_step, module.watch.take_loss()
        if step % module.log_every_n_steps == 0 or step == trainer.max_steps:
            module.check_finite()
            loss = mean_over_ranks(trainer, loss)
            metrics = {"train/loss": float(loss), "train/learning_rate": module.learning_rate}
            own, stop = module.text_encoder_learning_rate, module.train_text_encoder_steps
            if module.train_text_encoder and (own is not None or stop is not None):
                trains = stop is None or step <= stop
                rate = (own or module.learning_rate) if trains else 0.0
                metrics["train/text_encoder_learning_rate"] = rate
            if module.watch.grad_norm is not None:
                metrics["train/grad_norm"] = float(module.watch.grad_norm)
            if module.loss_scaler is not None:
                metrics["train/loss_scale"] = float(module.loss_scaler.get_scale())
            module.log("loss", loss, prog_bar=True, logger=False)
            _log(trainer, metrics)
        every = module.weight_change_every_n_steps
        if every and step % every == 0:
            changes = module.weight_changes()
            _log(trainer, {f"drift/weights/{block}": change for block, change in changes.items()})


def mean_over_ranks(trainer: Trainer, loss: Tensor) -> Tensor:
    """The loss of all processes' photos, each of which sees its own; all of them ask for it."""
    if trainer.world_size == 1:
        return loss
    mean: Tensor = trainer.strategy.reduce(loss.clone(), reduce_op="mean")
    return mean


def _log(trainer: Trainer, metrics: dict[str, float]) -> None:
    if trainer.logger is not None:
        trainer.logger.log_metrics(metrics, step=trainer.global_step)
