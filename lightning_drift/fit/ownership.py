"""A fit that has lost its run to another process writes nothing more."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class KeepsRun(Callback):
    """Ends a fit whose run was taken over while its computer slept or was cut off, before it writes again.

    Args:
        check: Raises a UserError then; quick otherwise.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step's end logs, renders and saves."""
        self._check()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Before the file is opened; a large one takes minutes, after which its writer asks once more."""
        self._check()
