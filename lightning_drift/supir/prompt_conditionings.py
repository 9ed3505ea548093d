"""The prompts of a run: each is encoded once, so that the text encoders can go before pictures are made."""

from collections.abc import Iterable, Sequence

import torch

from lightning_drift.common.errors import notice
from lightning_drift.common.prompt_lengths import words_beyond
from lightning_drift.supir.network.conditioning import reference_token_ids, token_ids
from lightning_drift.supir.network.denoiser import Conditioning
from lightning_drift.supir.network.weights import Checkpoints
from lightning_drift.supir.settings import Method

_SHOWN = 3
"""Prompts that are cut and named one by one; more are counted."""


class PromptConditionings:
    """Conditionings of captions, joined with the general prompt, and of the negative prompt.

    Args:
        checkpoints: Where the text encoders come from.
        method: The general prompts, and how captions are joined with them.
        device: Where to compute.
    """

    def __init__(self, checkpoints: Checkpoints, method: Method, device: torch.device) -> None:
        self.checkpoints, self.method, self.device = checkpoints, method, device
        self.captions: dict[str, Conditioning] = {}
        self._negative: Conditioning | None = None

    def encode(self, captions: Iterable[str]) -> None:
        """Encode what is not encoded yet, and let the text encoders go."""
        method = self.method
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.captions]
        if not new and self._negative is not None:
            return
        encoders = self.checkpoints.text_encoders(method.ae_dtype if method.reference else method.diff_dtype)
        encoders.to(self.device)
        tokenizer = self.checkpoints.sdxl.tokenizer
        join = reference_token_ids if method.reference else token_ids

        cut: list[str] = []

        def encoded(caption: str, prompt: str) -> Conditioning:
            ids, was_cut = join(tokenizer, caption, prompt)
            if was_cut:
                left = words_beyond(
                    caption or prompt,
                    lambda text: not join(tokenizer, *((text, prompt) if caption else ("", text)))[1],
                )
                cut.append(f"the last {left} words of {(caption or prompt)[:60]!r}")
            return encoders(ids, method.size)  # type: ignore[no-any-return]

        for caption in new:
            self.captions[caption] = encoded(caption, method.prompt)
        if self._negative is None:
            self._negative = encoded("", method.negative_prompt)
        if cut:
            more = f" and the ends of {len(cut) - _SHOWN} more prompts" if len(cut) > _SHOWN else ""
            notice(
                f"{'; '.join(cut[:_SHOWN])}{more} are cut off: a caption and its prompt have more than "
                f"{tokenizer.model_max_length} tokens together"
            )

    @property
    def negative(self) -> Conditioning:
        """That of the negative prompt, one row, on the device."""
        self.encode(())
        assert self._negative is not None
        return self._negative.to(self.device)

    def positive(self, captions: Sequence[Sequence[str]]) -> list[Conditioning]:
        """Those of pictures' captions, on the device.

        Args:
            captions: For each picture one caption, or one for each window.

        Returns:
            For each window (or one for all) the conditionings of the pictures, one per row.
        """
        self.encode(caption for row in captions for caption in row)
        count = max(len(row) for row in captions)
        rows = [list(row) * count if len(row) == 1 else list(row) for row in captions]
        return [
            Conditioning.joined([self.captions[row[window]] for row in rows]).to(self.device)
            for window in range(count)
        ]
