"""The loss on trained and on held-out photos between milestones: where does memorising begin?

A fit goes on lowering the loss on the photos that it is shown. On photos of the same subject that it never
sees, the loss falls with it as long as what is learnt is the subject, and turns where the photos themselves
are learnt. One photo for each noise level is looked at, so that it can be done every few steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_drift.drift.measures.noise_levels import NOISE_LEVELS, level_tag

KINDS = ("trained", "held_out")
_FLOOR = 1e-12


def on_curve(photos: int) -> Tensor:
    """Which photo is looked at at each noise level, shape (1, levels); levels take turns among few photos.

    >>> on_curve(8), on_curve(2)
    (tensor([[0, 1, 2, 3]]), tensor([[0, 1, 0, 1]]))
    """
    return torch.arange(len(NOISE_LEVELS))[None] % photos


def of_curve(values: Tensor) -> Tensor:
    """What the curve takes of values of each photo and level: shape (n, levels, ...) to (levels, ...)."""
    return values[on_curve(len(values))[0], torch.arange(values.shape[1])]


def loss_curves(base: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, float]:
    """A point of every curve, by tag; each is 1 for the base.

    >>> base = {"trained": torch.tensor([0.4, 0.2, 0.1, 0.1]), "held_out": torch.ones(4)}
    >>> now = {"trained": base["trained"] / 4, "held_out": base["held_out"] / 2}
    >>> point = loss_curves(base, now)
    >>> [round(point[tag], 6) for tag in ("loss_trained", "loss_trained_75", "loss_held_out", "memorising")]
    [0.25, 0.25, 0.5, 2.0]

    Args:
        base: The base's errors by kind (``KINDS``, held-out only where there are any), shape (levels,).
        now: The checkpoint's likewise.

    Returns:
        ``loss_<kind>``: the geometric mean over levels of the ratio of errors; ``loss_<kind>_25`` and so on:
        the ratio at one level, in percent of the timesteps; ``memorising``: the loss on held-out photos over
        that on trained ones, where there are both.
    """
    points: dict[str, float] = {}
    means = {}
    for kind, errors in now.items():
        logs = errors.double().clamp(min=_FLOOR).log() - base[kind].double().clamp(min=_FLOOR).log()
        means[kind] = logs.mean()
        points[f"loss_{kind}"] = means[kind].exp().item()
        points |= {
            level_tag(kind, level): log.exp().item() for level, log in zip(NOISE_LEVELS, logs, strict=True)
        }
    if len(means) == len(KINDS):
        points["memorising"] = (means["held_out"] - means["trained"]).exp().item()
    return points
