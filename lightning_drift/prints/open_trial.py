"""What an open upscaler takes for prints: one tile is tried on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor

from lightning_drift.prints.fixed_scale import Passes
from lightning_drift.prints.measuring import device_name, most_resident, packing
from lightning_drift.prints.plan import Costs
from lightning_drift.prints.tiles import Tiles
from lightning_drift.supir.memory.levels import free_bytes


def open_costs(
    enlarge: Callable[[Tensor], Tensor] | None,
    tiles: Tiles,
    device: torch.device,
    routes: Sequence[Passes],
) -> Costs:
    """What prints take that are made one after the other.

    Args:
        enlarge: A network on a tile [1, 3, h, w] in [0, 1]; None for Lanczos alone.
        tiles: How pictures are cut.
        device: Where the network works.
        routes: The way of each print.
    """
    free = free_bytes(device)
    tile = 0.0
    if enlarge is not None:
        side = tiles.size or max(max(route.source) for route in routes)
        pixels = torch.rand(1, 3, min(side, 512), min(side, 512))
        enlarge(pixels)  # the first of all warms up
        begin = perf_counter()
        enlarge(pixels)
        tile = (perf_counter() - begin) / pixels[0, 0].numel()
    pack = packing()
    begin = perf_counter()
    routes[0].reduced(torch.rand(3, *reversed(routes[0].after(routes[0].count))))
    reduce = (perf_counter() - begin) / _area(routes[0].output)
    seconds = [
        sum(tile * tiles.pixels(*route.after(k)) for k in range(route.count))
        + (pack + reduce) * _area(route.output)
        for route in routes
    ]
    largest = max(_area(route.after(route.count)) + 2 * _area(route.output) for route in routes)
    return Costs(0.0, seconds, most_resident(device) + 3 * 4 * largest, free, device_name(device))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
