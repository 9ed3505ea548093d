"""Cells of a corridor without their names: in random order, with what was measured of them kept apart."""

from collections.abc import Sequence
from typing import TypeVar

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_json
from lightning_drift.common.numbers import shown
from lightning_drift.common.rng import generator
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL

T = TypeVar("T")


def shuffled(cells: Sequence[T], seed: int, subject: str) -> list[T]:
    """Cells in an order that follows from the seed and the subject, and tells nothing of rate and steps."""
    order = torch.randperm(len(cells), generator=generator(seed, "blind", subject)).tolist()
    return [cells[index] for index in order]


def measures_at(run: RecordedRun, step: int) -> dict[str, Interval]:
    """What the verdict after a step is made of, as the run recorded it; without a loss it did not take.

    Raises:
        UserError: The run holds no reading of that step, or one without the measures that decide.
    """
    path = run.reading(step)
    if path is None:
        raise UserError(f"{run.folder} holds no reading of step {step}")
    recorded = read_json(path, "reading").get("measures")
    if not isinstance(recorded, dict):
        raise UserError(f"the reading {path} holds no measures")
    found = {}
    for name in (*DECIDING, *WITH_MODEL):
        if name in recorded or name in DECIDING:
            found[name] = _interval(recorded.get(name), f"{path}: {name}")
    return found


def _interval(recorded: object, place: str) -> Interval:
    parts: list[object] = []
    if isinstance(recorded, dict):
        parts = [recorded.get(part) for part in ("value", "low", "high")]
    numbers = [
        float(part)
        for part in parts
        if isinstance(part, int | float) and not isinstance(part, bool) and not abs(part) >= 1e30
    ]
    if len(numbers) != 3:
        raise UserError(f"{place} is {shown(recorded)} and was not measured")
    return Interval(*numbers)
