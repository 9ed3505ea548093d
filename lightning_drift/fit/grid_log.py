"""A grid's rows in TensorBoard."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.tensorboard import SummaryWriter


def log_row(trainer: Trainer, tag: str, images: Sequence[Image.Image], step: int) -> None:
    """Pictures side by side in TensorBoard."""
    for logger in trainer.loggers:
        writer: Any = getattr(logger, "experiment", None)
        if isinstance(writer, SummaryWriter):
            row = np.concatenate([np.asarray(image) for image in images], axis=1)
            writer.add_image(tag, row, step, dataformats="HWC")
            writer.flush()
