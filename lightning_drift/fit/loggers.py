"""Pictures and texts to every logger that takes them: TensorBoard, and those with Lightning's ``log_image``.

Lightning's ``Logger`` has a method for numbers alone; `WandbLogger` gives pictures and texts to ``log_image``
and ``log_text``. A logger of one's own may have them too.
"""

from collections.abc import Sequence

import numpy as np
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.tensorboard import SummaryWriter


def log_row(trainer: Trainer, tag: str, images: Sequence[Image.Image], step: int) -> None:
    """Pictures of one height, side by side.

    Args:
        trainer: Its loggers are written to.
        tag: Where they belong, such as ``grid/a-tree``.
        images: RGB.
        step: Optimizer steps.
    """
    row = np.concatenate([np.asarray(image) for image in images], axis=1)
    for logger in trainer.loggers:
        if isinstance(writer := getattr(logger, "experiment", None), SummaryWriter):
            writer.add_image(tag, row, step, dataformats="HWC")
            writer.flush()
        elif (log_image := getattr(logger, "log_image", None)) is not None:
            log_image(tag, [Image.fromarray(row)], step=step)


def log_text(trainer: Trainer, tag: str, text: str, step: int) -> None:
    """A text in Markdown; to loggers with ``log_text`` as a table of one row.

    Args:
        trainer: Its loggers are written to.
        tag: Where it belongs, such as ``drift/verdict``.
        text: The text.
        step: Optimizer steps.
    """
    for logger in trainer.loggers:
        if isinstance(writer := getattr(logger, "experiment", None), SummaryWriter):
            writer.add_text(tag, text, step)
            writer.flush()
        elif (log_table := getattr(logger, "log_text", None)) is not None:
            log_table(tag, columns=["step", "text"], data=[[str(step), text]], step=step)
