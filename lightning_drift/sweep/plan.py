"""The plan of a sweep: how many cells and pictures, how long and how much disk, before anything is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightning_drift.common.errors import notice
from lightning_drift.common.files import free_bytes
from lightning_drift.common.text import byte_size, duration
from lightning_drift.sweep.cells import AXES, SweepRequest
from lightning_drift.sweep.index import slot_column
from lightning_drift.sweep.shares import own_batches, work
from lightning_drift.sweep.sheets import check_axes

if TYPE_CHECKING:
    from lightning_drift.sweep.data import Sweep
    from lightning_drift.sweep.sweep_dreamer import SweepDreamer

_TEXT = 1024  # bytes of a picture's parameters and headers


def plan(data: Sweep, module: SweepDreamer, folder: Path, device: torch.device, devices: int = 1) -> str:
    """Find the models of a sweep, time a few steps, and say what it will take, or what its share will.

    Args:
        data: The sweep.
        module: What renders it.
        folder: Where its files go.
        device: Where a few steps are timed.
        devices: How many of these work.

    Returns:
        A few lines.

    Raises:
        UserError: A model cannot be found, or an option does not fit it.
    """
    grid = data.grid
    slots = list(dict.fromkeys(slot_column(slot) for cell in grid.cells for slot, _ in cell.prompt.slots))
    check_axes(data.sheet_axes, [*AXES, *slots])
    batches = own_batches(data, module)
    pictures = [request for batch in batches for request in batch]
    missing = [request for request in pictures if not _is_there(module, request, folder)]
    added = len(set(pictures).difference(grid.requests))
    lines = [
        *(f"{each.name}: {each.shape}" for each in data.products),
        f"cells    {len(grid.cells):,}",
        *([f"share    {data.share}, counted below; all shares have {_all(data)}"] if data.share else []),
        f"images   {len(pictures):,}" + (f", {added:,} of them of the base to measure against" * (added > 0)),
    ]
    if there := len(pictures) - len(missing):
        lines.append(f"there    {there:,} already, {len(missing):,} to make")
    if missing:
        lines.append(f"time     about {duration(_seconds(data, module, batches, missing, device) / devices)}")
        needed, free = _bytes(module, missing), free_bytes(folder)
        lines.append(f"disk     up to {byte_size(needed)} in {folder}, {byte_size(free)} free")
        if needed > free:
            notice(f"the sweep may need more than is free in {folder}; it stops where the disk is full")
    return "\n".join(lines)


def _all(data: Sweep) -> str:
    count = len(data.grid.pictures())
    return f"{count:,} image{'s' * (count != 1)}"


def _seconds(
    data: Sweep,
    module: SweepDreamer,
    batches: list[list[SweepRequest]],
    missing: list[SweepRequest],
    device: torch.device,
) -> float:
    """An estimate from a few steps of the first picture; others count by their size and predictions."""
    first = replace(missing[0], sampling_drift=1.0)
    loading, batch, step = module.trial(first, data.batch_size, device)
    total, loaded, left = 0.0, set(), set(missing)
    unit = work(module, first, maps=False) / first.num_inference_steps
    for requests in batches:
        if left.isdisjoint(requests):
            continue
        request = requests[0]
        total += batch + step * work(module, request, module.drift_map) / unit
        if (key := (request.model, request.drift)) not in loaded:
            loaded.add(key)
            total += loading
    return total


def _is_there(module: SweepDreamer, request: SweepRequest, folder: Path) -> bool:
    files = [module.describe(request), module.describe_beside(request)]
    return all((folder / f"{file[0]}.png").exists() for file in files if file)


def _bytes(module: SweepDreamer, requests: list[SweepRequest]) -> int:
    """The most that pictures take: PNG is hardly ever larger than the pixels."""
    sizes = (module.sampling_of(request) for request in requests)
    return sum(3 * (size.height or 0) * (size.width or 0) + _TEXT for size in sizes)
