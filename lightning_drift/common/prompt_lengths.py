"""Prompts that are longer than a text encoder sees: what is cut is said once, before it is."""

from collections.abc import Callable, Iterable
from typing import Any

from lightning_drift.common.errors import notice

_SHOWN = 3
"""Prompts that are named one by one; more are counted."""
_LETTERS = 60


def tell_cut(tokenizer: Any, prompts: Iterable[str]) -> None:
    """Say which prompts have more tokens than a model sees, and how many words of each that leaves out.

    Args:
        tokenizer: The model's, a CLIP's; its ``model_max_length`` counts the begin and end tokens too.
        prompts: All prompts of a run.
    """
    longest = int(tokenizer.model_max_length)
    # A token is at least one letter, so most prompts need not be counted.
    candidates = [prompt for prompt in dict.fromkeys(prompts) if len(prompt) > longest - 2]
    counts = {prompt: _tokens(tokenizer, prompt) for prompt in candidates}
    cut = [prompt for prompt in candidates if counts[prompt] > longest]
    for prompt in cut[:_SHOWN] if len(cut) <= _SHOWN else cut[:1]:
        shown = prompt if len(prompt) <= _LETTERS else f"{prompt[:_LETTERS]}…"
        left = words_beyond(prompt, lambda text: _tokens(tokenizer, text) <= longest)
        words = f"its last {left} words are" if left > 1 else "the end of its last word is"
        notice(
            f"the prompt {shown!r} has {counts[prompt]} tokens and the model sees {longest}: {words} cut off"
        )
    if len(cut) > _SHOWN:
        notice(f"{len(cut) - 1:,} more prompts are longer than {longest} tokens and are cut off there")


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)


def words_beyond(text: str, fits: Callable[[str], bool]) -> int:
    """How many words at the end of a text do not fit; the last one that is counted may fit in part.

    Args:
        text: A text that does not fit.
        fits: Whether a beginning of it does.
    """
    words = text.split()
    within, beyond = 0, len(words)
    while beyond - within > 1:
        middle = (within + beyond) // 2
        if fits(" ".join(words[:middle])):
            within = middle
        else:
            beyond = middle
    return len(words) - within
