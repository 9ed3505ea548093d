"""The plan of prints: exact sizes, passes, windows, and what they take, before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lightning.pytorch import Trainer

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import free_bytes
from lightning_drift.common.text import byte_size, duration
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.prints.images import UpscaleImages, UpscaleRequest
from lightning_drift.prints.paper import Sheet
from lightning_drift.prints.sizes import Frame, Size

_SHOWN = 4
"""Sizes of pictures that are described one by one; more are counted."""

_TEXT = 8192
"""Bytes of a print's parameters, profile and headers."""


@dataclass(frozen=True)
class Costs:
    """What prints take.

    Attributes:
        loading: Seconds before the first.
        seconds: Of one print of each request.
        memory: Bytes of the device at most, weights included.
        free: Bytes of it that can be had.
        device: Its name.
        notes: What is done to need no more, and why; a line each.
    """

    loading: float
    seconds: Sequence[float]
    memory: int
    free: int
    device: str
    notes: tuple[str, ...] = ()


class Prints(Protocol):
    """A module that prints, as far as it is planned."""

    def describe(self, request: UpscaleRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text."""
        ...

    def frames(self, request: UpscaleRequest) -> tuple[list[Frame], Sheet | None]:
        """The passes over a request's picture, and its paper."""
        ...


def plan(
    module: Prints,
    data: UpscaleImages,
    trainer: Trainer,
    costs: Callable[[Sequence[UpscaleRequest]], Costs],
) -> str:
    """Say what will be printed and what it takes.

    Args:
        module: What prints.
        data: The pictures; their files are read.
        trainer: Its ``ImageWriter`` says where prints go and which are there.
        costs: Tries what prints of requests take, made one after the other.

    Returns:
        A few lines.
    """
    writer = next(each for each in trainer.callbacks if isinstance(each, ImageWriter))  # type: ignore[attr-defined]
    folder = writer.output_dir
    for request in data.requests:
        request.look()
    known: list[UpscaleRequest] = []
    unusable = 0
    shapes: dict[tuple[Size, ...], tuple[UpscaleRequest, list[Frame], Sheet | None, int]] = {}
    for request in data.requests:
        try:
            frames, sheet = module.frames(request)
        except UserError:
            unusable += 1
            continue
        known.append(request)
        key = (*(frame.output for frame in frames), sheet.size if sheet else (0, 0))
        earlier = shapes.get(key)
        shapes[key] = (request, frames, sheet, 1 if earlier is None else earlier[3] + 1)
    missing = [request for request in known if not writer.path(*module.describe(request))[1]]
    count = len(data.requests)
    lines = [
        f"prints   {count:,}" + (f", {unusable:,} of them of files that cannot be used" * (unusable > 0))
    ]
    if data.share is not None:
        lines[0] += f", share {data.share}"
    for request, frames, sheet, number in list(shapes.values())[:_SHOWN]:
        lines.append(f"size     {_size(request, frames, sheet, number)}")
        if len(frames) > 1 or frames[-1].work != frames[-1].output:
            lines.append(f"passes   {_passes(request, frames)}")
    if len(shapes) > _SHOWN:
        lines.append(f"         and {len(shapes) - _SHOWN} other sizes")
    if there := len(known) - len(missing):
        lines.append(f"there    {there:,} already, {len(missing):,} to make")
    if missing:
        lines += _taken(costs(missing), trainer.world_size)
        needed, free = sum(_bytes(module, request) for request in missing), free_bytes(folder)
        lines.append(f"disk     up to {byte_size(needed)} in {folder}, {byte_size(free)} free")
        if needed > free:
            notice(f"the prints may need more than is free in {folder}; they stop where the disk is full")
    return "\n".join(lines)


def _size(request: UpscaleRequest, frames: Sequence[Frame], sheet: Sheet | None, number: int) -> str:
    output = frames[-1].output
    assert request.size is not None
    times = f" ({number:,} prints)" if number > 1 else ""
    source = frames[0].source
    scale = output[0] / ((source[2] - source[0]) or 1)
    wide, high = request.size
    made = f"{wide}x{high} -> {output[0]}x{output[1]} pixels, {scale:.3g} times as large{times}"
    if sheet is None or request.paper is None:
        return made
    paper = request.paper
    extra = f", {paper.bleed:g} mm bleed" * bool(paper.bleed) + f", {paper.border:g} mm border" * bool(
        paper.border
    )
    on = f"{paper.text} at {paper.dpi:g} dpi{extra}: a file of {sheet.size[0]}x{sheet.size[1]} pixels"
    shown = source[2] - source[0], source[3] - source[1]
    if (cut := 1 - shown[0] * shown[1] / (wide * high)) > 0.005:
        made += f"; {cut:.0%} of the picture is beyond the paper's shape and cut off"
    return f"{on}; {made}"


def _passes(request: UpscaleRequest, frames: Sequence[Frame]) -> str:
    assert request.size is not None
    steps = [f"{frame.work[0]}x{frame.work[1]}" for frame in frames]
    last = frames[-1]
    after = f", made smaller to {last.output[0]}x{last.output[1]}" if last.work != last.output else ""
    why = "; no step above 4 times, which SUPIR was trained for" if len(frames) > 1 else ""
    return f"{len(frames)}: {request.size[0]}x{request.size[1]} -> {' -> '.join(steps)}{after}{why}"


def _taken(costs: Costs, devices: int) -> list[str]:
    count = len(costs.seconds)
    total = costs.loading + sum(costs.seconds) / devices
    each = f", {duration(sum(costs.seconds) / count)} a print" if count > 1 else ""
    return [
        *costs.notes,
        f"memory   about {byte_size(costs.memory)} of {costs.device}, {byte_size(costs.free)} free",
        f"time     about {duration(total)}{each}, tried on {costs.device}",
    ]


def _bytes(module: Prints, request: UpscaleRequest) -> int:
    """The most that a file takes: PNG and TIFF are hardly ever larger than their pixels."""
    frames, sheet = module.frames(request)
    wide, high = sheet.size if sheet else frames[-1].output
    deep = request.bits == 16 or (request.bits == "auto" and request.deep)
    return (6 if deep else 3) * wide * high + _TEXT
