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
from lightning_drift.prints.sizes import Box, Size

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


@dataclass(frozen=True)
class Route:
    """How a picture becomes a print, sizes as (width, height) in pixels.

    Attributes:
        steps: What each pass processes.
        output: The picture's size in the end.
        box: The part of the source that is shown.
        sheet: The paper; None without one.
        why: Why so many passes.
    """

    steps: tuple[Size, ...]
    output: Size
    box: Box
    sheet: Sheet | None
    why: str = ""


class Prints(Protocol):
    """A module that prints, as far as it is planned."""

    def describe(self, request: UpscaleRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text."""
        ...

    def describe_beside(self, request: UpscaleRequest) -> tuple[str, dict[str, str]] | None:
        """Likewise of the picture beside it; None where there is none."""
        ...

    def route(self, request: UpscaleRequest) -> Route:
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
    shapes: dict[Route, tuple[UpscaleRequest, int]] = {}
    for request in data.requests:
        try:
            route = module.route(request)
        except UserError:
            unusable += 1
            continue
        known.append(request)
        shapes[route] = request, shapes.get(route, (request, 0))[1] + 1
    missing = [request for request in known if not writer.path(*module.describe(request))[1]]
    count = len(data.requests)
    lines = [
        f"prints   {count:,}" + (f", {unusable:,} of them of files that cannot be used" * (unusable > 0))
    ]
    if data.share is not None:
        lines[0] += f", share {data.share}"
    for route, (request, number) in list(shapes.items())[:_SHOWN]:
        lines.append(f"size     {_size(request, route, number)}")
        if len(route.steps) > 1 or route.steps[-1:] not in ((), (route.output,)):
            lines.append(f"passes   {_passes(request, route)}")
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


def _size(request: UpscaleRequest, route: Route, number: int) -> str:
    assert request.size is not None
    (wide, high), output, box = request.size, route.output, route.box
    shown = box[2] - box[0], box[3] - box[1]
    times = f" ({number:,} prints)" if number > 1 else ""
    made = (
        f"{wide}x{high} -> {output[0]}x{output[1]} pixels, {output[0] / shown[0]:.3g} times as large{times}"
    )
    paper, sheet = request.paper, route.sheet
    if sheet is None or paper is None:
        return made
    edges = "".join(
        f", {value:g} mm {name}"
        for name, value in (("bleed", paper.bleed), ("border", paper.border))
        if value
    )
    on = f"{paper.text} at {paper.dpi:g} dpi{edges}: a file of {sheet.size[0]}x{sheet.size[1]} pixels"
    if (cut := 1 - shown[0] * shown[1] / (wide * high)) > 0.005:
        made += f"; {cut:.0%} of the picture is beyond the paper's shape and cut off"
    return f"{on}; {made}"


def _passes(request: UpscaleRequest, route: Route) -> str:
    assert request.size is not None
    steps = [f"{wide}x{high}" for wide, high in (request.size, *route.steps)]
    last, output = route.steps[-1], route.output
    after = f", then reduced to {output[0]}x{output[1]}" if last != output else ""
    why = f"; {route.why}" if route.why else ""
    return f"{len(route.steps)}: {' -> '.join(steps)}{after}{why}"


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
    route = module.route(request)
    wide, high = route.sheet.size if route.sheet else route.output
    deep = request.bits == 16 or (request.bits == "auto" and request.deep)
    size = (6 if deep else 3) * wide * high + _TEXT
    if module.describe_beside(request) is None:
        return size
    return size + 3 * route.output[0] * route.output[1] + _TEXT
