"""How far a text encoder has moved from the base's: the same prompts, their embeddings before and after."""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_drift.stable_diffusion.loading import StableDiffusion

FEWEST_PROMPTS = 3
"""Fewer prompts have fewer than three pairs, and a correlation of their similarities says nothing."""


@torch.no_grad()
def pooled_embeddings(model: StableDiffusion, prompts: list[str]) -> Tensor:
    """The text encoder's pooled embedding of each prompt, float32 on the CPU, shape (p, d).

    The state at the end token after the last norm, as CLIP projects it. The caller sets evaluation mode.

    Args:
        model: The parts.
        prompts: One prompt or more; what exceeds the tokenizer's maximum is cut.
    """
    tokens = model.tokenizer(
        prompts,
        padding="max_length",
        max_length=model.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    encoder = model.text_encoder
    pooled: Tensor = encoder(tokens.input_ids.to(encoder.device)).pooler_output
    return pooled.float().cpu()


def similarity(base: Tensor, now: Tensor) -> float:
    """Mean cosine between each prompt's embedding before and after: exactly 1 where nothing moved.

    >>> similarity(torch.eye(2), torch.eye(2)), similarity(torch.eye(2), torch.eye(2).flip(0))
    (1.0, 0.0)

    Args:
        base: The base's embeddings, shape (p, d).
        now: Those of the same prompts now, shape (p, d).
    """
    return float(_cosine(base.double(), now.double()).mean())


def structure(base: Tensor, now: Tensor) -> float | None:
    """Whether prompts still stand to one another as they did, -1..1: exactly 1 where nothing moved.

    The Pearson correlation between the two tables of cosines of all pairs of prompts (representational
    similarity analysis, Kriegeskorte et al. 2008). It is blind to a rotation that leaves all angles alone,
    which `similarity` sees.

    Args:
        base: The base's embeddings, shape (p, d).
        now: Those of the same prompts now, shape (p, d).

    Returns:
        None for fewer than three prompts.
    """
    count = len(base)
    if count < FEWEST_PROMPTS:
        return None
    rows, columns = torch.triu_indices(count, count, offset=1)
    tables = []
    for vectors in (base, now):
        unit = functional.normalize(vectors.double(), dim=-1)
        cosines = (unit @ unit.T)[rows, columns]
        tables.append(cosines - cosines.mean())
    return float(_cosine(*tables))


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine along the last axis, from the distance: equal vectors give 1 without a rounding error."""
    unit_left, unit_right = functional.normalize(left, dim=-1), functional.normalize(right, dim=-1)
    return 1 - (unit_left - unit_right).square().sum(-1) / 2
