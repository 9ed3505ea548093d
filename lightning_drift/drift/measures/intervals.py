"""Bootstrap over seeds: how much a measure would change with other seeds, as a 90 % interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_drift.common.rng import generator

DRAWS = 200
CONFIDENCE = 0.9


@dataclass
class Interval:
    """A measure's value and the 90 % bootstrap interval around it, ``low <= value <= high``."""

    value: float
    low: float
    high: float


class SeedDraws:
    """Weights of pictures: first all seeds alike, then one row for each bootstrap draw over seeds.

    A draw gives every seed a standard exponential weight, normalised over the seeds of a prompt: the
    Bayesian bootstrap (D. Rubin, 1981). Unlike counts with replacement it leaves no draw without a pair of
    seeds, which matters with four seeds. A seed has the same weight under every prompt, because it is the
    same noise. A picture of the base and its match of the checkpoint share one weight. Every prompt weighs
    the same, however many seeds it has.

    Args:
        keys: The (prompt, seed) of each picture; every prompt with two seeds or more, none twice.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Raises:
        ValueError: A key is there twice, or a prompt has one seed only.
    """

    def __init__(self, keys: Sequence[tuple[str, int]], draws: int = DRAWS, seed: int = 0) -> None:
        if len(set(keys)) < len(keys):
            raise ValueError("a (prompt, seed) is there twice")
        self.keys = list(keys)
        self.prompts = list(dict.fromkeys(prompt for prompt, _ in keys))
        #: Index of each picture's prompt in ``prompts``, shape (n,).
        self.prompt = torch.tensor([self.prompts.index(prompt) for prompt, _ in keys])
        self.seeds = torch.tensor([number for _, number in keys])
        #: Indices of the pictures of each prompt.
        self.members = [torch.nonzero(self.prompt == p)[:, 0] for p in range(len(self.prompts))]
        for prompt, members in zip(self.prompts, self.members, strict=True):
            if len(members) < 2:
                raise ValueError(f"{prompt!r} has one seed only; intervals need two or more")
        raw = {}
        for number in {number for _, number in keys}:
            stream = generator(seed, "drift bootstrap", number)
            drawn = torch.empty(draws, dtype=torch.float64).exponential_(generator=stream)
            raw[number] = torch.cat([torch.ones(1, dtype=torch.float64), drawn])
        #: Shape (1 + draws, n); the weights of a prompt's pictures sum to one.
        self.weights = torch.stack([raw[number] for _, number in keys], dim=1)
        for members in self.members:
            self.weights[:, members] /= self.weights[:, members].sum(1, keepdim=True)

    def only(self, prompts: Iterable[str]) -> tuple[SeedDraws, Tensor]:
        """The same draws for some of the prompts, and the indices of their pictures."""
        names = set(prompts)
        index = torch.tensor([i for i, (prompt, _) in enumerate(self.keys) if prompt in names])
        part = SeedDraws([self.keys[i] for i in index.tolist()], draws=0)
        part.weights = self.weights[:, index]
        return part, index

    def mean(self, values: Tensor) -> Tensor:
        """Mean over prompts of the mean over seeds.

        Args:
            values: One value or one vector per picture, shape (n,) or (n, k).

        Returns:
            Shape (1 + draws,) or (1 + draws, k).
        """
        return self.weights @ values.double() / len(self.prompts)

    def pair_mean(self, distances: Tensor) -> Tensor:
        """Mean over prompts of the mean over pairs of different seeds.

        Args:
            distances: Between all pictures, shape (n, n).

        Returns:
            Shape (1 + draws,).
        """
        total = torch.zeros(len(self.weights), dtype=torch.float64)
        for members in self.members:
            weights, block = self.weights[:, members], distances[members][:, members].double()
            pairs = ((weights @ block) * weights).sum(1) - (weights**2) @ block.diagonal()
            total += pairs / (1 - (weights**2).sum(1)).clamp(min=1e-12)
        return total / len(self.prompts)

    def prompt_pair_mean(self, distances: Tensor) -> Tensor:
        """Mean distance between pictures of different prompts at one seed; at any seeds if none is shared.

        Args:
            distances: Between all pictures, shape (n, n).

        Returns:
            Shape (1 + draws,).
        """
        other = self.prompt[:, None] != self.prompt[None]
        matched = other & (self.seeds[:, None] == self.seeds[None])
        mask = (matched if matched.any() else other).double()
        weights = self.weights
        norm = ((weights @ mask) * weights).sum(1)
        return ((weights @ (mask * distances.double())) * weights).sum(1) / norm.clamp(min=1e-12)

    def interval(
        self, values: Tensor, at_least: float | None = None, at_most: float | None = None
    ) -> Interval:
        """The value and the percentile interval of its draws.

        The bootstrap is too narrow for few seeds (T. Hesterberg, "What teachers should know about the
        bootstrap", 2015, section 4); the deviations are widened by sqrt((S + 1) / (S - 1)), which makes the
        variance of a mean over S seeds unbiased.

        Args:
            values: Shape (1 + draws,): the value with all seeds alike, then the draws.
            at_least: A bound that the measure cannot leave.
            at_most: Likewise.
        """
        value = float(values[0])
        low = high = value
        if len(values) > 1:
            tails = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
            lower, upper = torch.quantile(values[1:].double(), tails).tolist()
            fewest = min(len(members) for members in self.members)
            widen = math.sqrt((fewest + 1) / (fewest - 1))
            low = value - widen * max(value - lower, 0.0)
            high = value + widen * max(upper - value, 0.0)
        if at_least is not None:
            low = min(max(low, at_least), value)
        if at_most is not None:
            high = max(min(high, at_most), value)
        return Interval(value, low, high)


def against_base(value: Tensor, base: Tensor, floor: float) -> Tensor:
    """The ratio of a statistic to the base model's: 1 for the base itself, finite whatever the base is.

    >>> against_base(torch.tensor(0.3), torch.tensor(0.6), floor=0.01).item()
    0.5

    Args:
        value: The checkpoint's statistic.
        base: The base model's.
        floor: Below it the base's statistic says nothing, and the difference is taken relative to the floor.
    """
    return 1 + (value - base) / base.clamp(min=floor)
