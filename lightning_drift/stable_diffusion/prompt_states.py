"""What the text encoder makes of prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_drift.stable_diffusion.loading import StableDiffusion


def encode_prompts(model: StableDiffusion, prompts: Sequence[str]) -> Tensor:
    """Text-encoder states of prompts, padded to the tokenizer's maximum, [len(prompts), tokens, width].

    A prompt longer than the maximum (77 tokens for SD v1.5) is cut there, as every Stable Diffusion tool
    does.
    """
    tokens = model.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=model.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    states: Tensor = model.text_encoder(tokens.input_ids.to(model.text_encoder.device))[0]
    return states


class EncodedPrompts:
    """Encodes prompts, each once and by itself, so that its states follow from nothing else.

    Args:
        lasting: Whether all that were encoded are kept, and not those of the last call alone.
    """

    def __init__(self, lasting: bool = True) -> None:
        self._lasting = lasting
        self._states: dict[str, Tensor] = {}

    def __call__(self, model: StableDiffusion, prompts: Sequence[str]) -> Tensor:
        """Text-encoder states as `encode_prompts` gives them, up to rounding; of one model with one state."""
        known = self._states
        states = {p: known[p] if p in known else encode_prompts(model, [p]) for p in prompts}
        self._states = {**known, **states} if self._lasting else states
        return torch.cat([states[prompt] for prompt in prompts])
