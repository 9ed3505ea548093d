"""Pictures that could not be made: a notice for each at once, and one error for all at the end."""

from pathlib import Path
from typing import Any

import torch

from lightning_drift.common.errors import UserError, notice


class Failures:
    """What failed in one run, on one device."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def add(self, path: Path, reason: str, tell: bool = True) -> None:
        """Record that an image was skipped.

        Args:
            path: The image file.
            reason: Why, as the rest of a sentence, or a whole one that begins with the path.
            tell: Give notice even if the same failure is recorded already.
        """
        sentence = reason if reason.startswith(str(path)) else f"{path} {reason}"
        if tell or sentence not in self.sentences:
            notice(f"skipped: {sentence}")
        if sentence not in self.sentences:
            self.sentences.append(sentence)

    def report(self, trainer: Any) -> None:
        """End the run with an error if anything failed on any device.

        Raises:
            UserError: Pictures could not be made; the message lists them.
        """
        sentences = list(self.sentences)
        if trainer.world_size > 1:
            gathered: list[list[str]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, sentences)
            sentences = list(dict.fromkeys(sentence for rank in gathered for sentence in rank))
        if not sentences:
            return
        if not trainer.is_global_zero:
            raise SystemExit(2)  # the first process says it for all
        number = "one image" if len(sentences) == 1 else f"{len(sentences)} images"
        raise UserError(f"{number} could not be upscaled, the others are done:", details=sentences)
