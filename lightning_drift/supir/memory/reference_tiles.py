"""The reference's tiled autoencoder, kept for parity: padded tiles in lock-step between group normalisations.

It differs visibly from the untiled result: the variance is the mean of the tiles' own variances, overlaps
count more than once, and the mid block attends within a tile. `supir.memory.strips` is the exact way.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ENCODER_PADDING = 32
DECODER_PADDING = 11

Steps = Generator[tuple[nn.GroupNorm, Tensor], Tensor, Tensor]


@dataclass(frozen=True)
class Box:
    """Columns x0 to x1, rows y0 to y1."""

    x0: int
    x1: int
    y0: int
    y1: int


def _tile_edge(length: int, tile: int, padding: int) -> tuple[int, int]:
    """Number of tiles of an axis and their length, rounded up to a multiple of 32 … 2 if that fits."""
    count = max(1, math.ceil((length - 2 * padding) / tile))
    edge = math.ceil((length - 2 * padding) / count)
    for divisor in (32, 16, 8, 4, 2):
        if edge % divisor == 0:
            break
        larger = edge - edge % divisor + divisor
        if larger <= tile:
            edge = larger
            break
    return count, edge


def split(height: int, width: int, tile: int, padding: int) -> tuple[list[Box], list[Box]]:
    """Boxes that tiles read and boxes that they write, row by row, in input units (reference behaviour)."""

    def spans(length: int) -> list[tuple[int, int, int, int]]:
        count, edge = _tile_edge(length, tile, padding)
        boxes = []
        for i in range(count):
            low, high = padding + i * edge, min(padding + (i + 1) * edge, length)
            out_low = 0 if low <= padding else low
            out_high = length if high >= length - padding else high
            boxes.append((max(low - padding, 0), min(high + padding, length), out_low, out_high))
        return boxes

    reads, writes = [], []
    for row in spans(height):
        for column in spans(width):
            reads.append(Box(column[0], column[1], row[0], row[1]))
            writes.append(Box(column[2], column[3], row[2], row[3]))
    return reads, writes


def encode_in_tiles(encoder: nn.Module, image: Tensor, tile: int) -> Tensor:
    """The encoder's output [N, 8, h, w] float32, tiled as the reference does; `tile` in pixels."""
    return _run(lambda part: _encoder_steps(encoder, part), image, tile, ENCODER_PADDING, lambda at: at // 8)


def decode_in_tiles(decoder: nn.Module, latent: Tensor, tile: int) -> Tensor:
    """The decoder's output [N, 3, 8h, 8w] float32, tiled as the reference does; `tile` in latent units."""
    return _run(lambda part: _decoder_steps(decoder, part), latent, tile, DECODER_PADDING, lambda at: at * 8)


def _run(
    network: Callable[[Tensor], Steps], x: Tensor, tile: int, padding: int, scale: Callable[[int], int]
) -> Tensor:
    height, width = x.shape[-2:]
    reads, writes = [Box(0, width, 0, height)], [Box(0, width, 0, height)]
    if max(height, width) > 2 * padding + tile:
        reads, writes = split(height, width, tile, padding)
    runs = [network(x[..., box.y0 : box.y1, box.x0 : box.x1]) for box in reads]
    waiting = [next(run) for run in runs]
    results: list[Tensor] = []
    while not results:
        normalised = _normalise(waiting[0][0], [hidden for _, hidden in waiting])
        waiting = []
        for run, hidden in zip(runs, normalised, strict=True):
            try:
                waiting.append(run.send(hidden))
            except StopIteration as done:
                results.append(done.value)
    out = torch.zeros(x.shape[0], results[0].shape[1], scale(height), scale(width), device=x.device)
    for part, read, write in zip(results, reads, writes, strict=True):
        x0, x1, y0, y1 = (scale(at) for at in (write.x0, write.x1, write.y0, write.y1))
        left, top = x0 - scale(read.x0), y0 - scale(read.y0)
        out[..., y0:y1, x0:x1] = part[..., top : top + y1 - y0, left : left + x1 - x0]
    return out


def _normalise(norm: nn.GroupNorm, tiles: list[Tensor]) -> list[Tensor]:
    """Normalise all tiles by the mean of their means and variances, weighted by their pixels."""
    moments = [
        torch.var_mean(tile.float().reshape(tile.shape[0], norm.num_groups, -1), dim=2, correction=0)
        for tile in tiles
    ]
    pixels = torch.tensor([tile.shape[-2] * tile.shape[-1] for tile in tiles], device=tiles[0].device)
    share = (pixels / pixels.sum())[:, None, None]
    variance = (torch.stack([variance for variance, _ in moments]) * share).sum(0)
    mean = (torch.stack([mean for _, mean in moments]) * share).sum(0)

    def apply(tile: Tensor) -> Tensor:
        grouped = tile.float().reshape(tile.shape[0], norm.num_groups, -1)
        centred = (grouped - mean[..., None]) / (variance + norm.eps).sqrt()[..., None]
        weight, bias = norm.weight.float()[:, None, None], norm.bias.float()[:, None, None]
        normalised: Tensor = centred.reshape(tile.shape) * weight + bias
        return normalised.to(tile.dtype)

    return [apply(tile) for tile in tiles]


def _resnet(block: Any, x: Tensor) -> Steps:
    hidden = block.conv1(F.silu((yield block.norm1, x)))
    hidden = block.conv2(F.silu((yield block.norm2, hidden)))
    out: Tensor = hidden + (x if block.conv_shortcut is None else block.conv_shortcut(x))
    return out


def _mid(block: Any, x: Tensor) -> Steps:
    x = yield from _resnet(block.resnets[0], x)
    attention = block.attentions[0]
    tokens = (yield attention.group_norm, x).flatten(2).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(
        attention.to_q(tokens), attention.to_k(tokens), attention.to_v(tokens)
    )
    x = x + attention.to_out[0](mixed).transpose(1, 2).unflatten(2, x.shape[-2:])
    return (yield from _resnet(block.resnets[1], x))


def _encoder_steps(encoder: Any, x: Tensor) -> Steps:
    x = encoder.conv_in(x)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            x = yield from _resnet(resnet, x)
        if block.downsamplers is not None:
            x = block.downsamplers[0](x)
    x = yield from _mid(encoder.mid_block, x)
    out: Tensor = encoder.conv_out(F.silu((yield encoder.conv_norm_out, x)))
    return out


def _decoder_steps(decoder: Any, x: Tensor) -> Steps:
    x = yield from _mid(decoder.mid_block, decoder.conv_in(x))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = yield from _resnet(resnet, x)
        if block.upsamplers is not None:
            x = block.upsamplers[0](x)
    out: Tensor = decoder.conv_out(F.silu((yield decoder.conv_norm_out, x)))
    return out
