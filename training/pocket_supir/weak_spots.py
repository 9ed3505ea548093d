"""Measures of what prints are bad at: plain pictures, outermost lines, mean colour, stars and snow.

All figures are in levels of 255, or counts of a print.
"""

from __future__ import annotations

from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lightning_drift.supir import colour
from training.pocket.scenes import HELD_OUT_SEED
from training.pocket.world.render import render
from training.pocket.world.scene import sample_scene
from training.pocket_supir.degradation import enlarge, reduce, to_pil
from training.pocket_supir.dotted_scenes import dotted
from training.pocket_supir.models import PRINT
from training.pocket_supir.printing import Printer

PLAIN = (
    *((level,) * 3 for level in (16, 64, 128, 192, 240)),
    (200, 40, 40), (40, 80, 200), (210, 180, 120),
)  # fmt: skip
"""The colours of the plain pictures."""
STAR = 24.0
"""By how many levels of brightness a star or flake of a true scene stands out at least."""
FLECK = 8.0
"""By how many levels a speck does that the true scene has not."""


def plain_pictures(side: int) -> Tensor:
    """Pictures (n, 3, side, side) of one colour each, in -1..1."""
    return (torch.tensor(PLAIN)[:, :, None, None] / 127.5 - 1).expand(-1, -1, side, side)


def dotted_scenes(number: int) -> Tensor:
    """The first unseen scenes with stars or falling snow, (number, 3, 256, 256) in -1..1."""
    scenes = (sample_scene(HELD_OUT_SEED, index) for index in count())
    painted = [render(scene, PRINT) for scene in islice(filter(dotted, scenes), number)]
    return torch.from_numpy(np.stack(painted)).permute(0, 3, 1, 2) / 127.5 - 1


def plain_errors(prints: Tensor, given: Tensor) -> dict[str, float]:
    """How far prints (n, 3, h, w) of plain pictures are off.

    Returns:
        Means over pictures. ``level``: largest error of the mean of a channel; ``band``: largest difference
        of the mean of a row or column from that of its picture; ``worst``: largest error of one pixel.
    """
    error = 127.5 * (prints.clamp(-1, 1) - given)
    mean = error.mean((2, 3))
    lines = torch.cat([error.mean(3), error.mean(2)], 2) - mean[..., None]
    return {
        "level": float(mean.abs().amax(1).mean()),
        "band": float(lines.abs().amax((1, 2)).mean()),
        "worst": float(error.abs().amax((1, 2, 3)).mean()),
    }


def edge_excess(prints: Tensor, truth: Tensor) -> float:
    """Mean error of the outermost lines of prints (n, 3, h, w) over that of the third to eighth line."""
    error = 127.5 * (prints.clamp(-1, 1) - truth).abs()
    sides = [error, error.flip(2), error.transpose(2, 3), error.transpose(2, 3).flip(2)]
    return float(sum(side[:, :, 0].mean() - side[:, :, 2:8].mean() for side in sides) / len(sides))


def colour_shift(prints: Tensor, given: Tensor) -> dict[str, float]:
    """Error of the mean of a channel of prints (n, 3, h, w) against the pictures they were made from.

    Returns:
        ``mean`` and ``most`` over prints and channels.
    """
    shift = 127.5 * (prints.clamp(-1, 1).mean((2, 3)) - given.mean((2, 3))).abs()
    return {"mean": float(shift.mean()), "most": float(shift.max())}


def flecks(prints: Tensor, truth: Tensor) -> dict[str, float]:
    """What becomes of the stars and flakes of true scenes (n, 3, h, w) in their prints.

    A speck is what a morphological opening (dark ones: a closing) of the brightness by 9 x 9 pixels takes
    away; one of the other picture within 3 pixels is its equal. Of false ones those count that lie within 6
    pixels of a star or flake of the true scene.

    Returns:
        For every 100 stars and flakes: ``lost``, those whose equal is not half as bright; ``dark`` and
        ``bright``, false specks. ``error``: root mean squared error of all channels within 6 pixels of them.
    """
    ours, true = brightness(prints), brightness(truth)
    stars = peaks(specks(true), STAR)
    near = dilated(stars.float(), 13) > 0
    number = max(float(stars.sum()), 1.0) / 100
    lost = stars & (dilated(specks(ours), 7) < 0.5 * specks(true))
    false = [peaks(specks(s * ours) - dilated(specks(s * true), 7), FLECK) & near for s in (-1, 1)]
    error = 127.5 * (prints.clamp(-1, 1) - truth)
    return {
        "lost": float(lost.sum()) / number,
        "dark": float(false[0].sum()) / number,
        "bright": float(false[1].sum()) / number,
        "error": float((error.pow(2) * near).sum() / (3 * near.sum()).clamp_min(1)) ** 0.5,
    }


def brightness(pictures: Tensor) -> Tensor:
    """Levels (n, 1, h, w) of pictures in -1..1, clamped."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (pictures.clamp(-1, 1) * 127.5 * weights).sum(1, keepdim=True)


def specks(levels: Tensor, side: int = 9) -> Tensor:
    """By how much pixels stand out of an opening of their picture, all (n, 1, h, w)."""
    return levels - dilated(-dilated(-levels, side), side)


def dilated(levels: Tensor, side: int) -> Tensor:
    """The largest value within a square around each pixel."""
    return F.max_pool2d(levels, side, 1, side // 2)


def peaks(levels: Tensor, least: float) -> Tensor:
    """Where `levels` (n, 1, h, w) are above `least` and the largest of 9 x 9."""
    return (levels > least) & (levels == dilated(levels, 9))


def measure_weak_spots(
    printer: Printer, scenes: Tensor, number: int, sheet: Path
) -> dict[str, dict[str, float]]:
    """All figures, of prints without captions and of what they can be compared with.

    Args:
        printer: Makes the prints.
        scenes: Unseen scenes (n, 3, 256, 256).
        number: How many scenes with stars or snow to add to them.
        sheet: Where to write a picture of the first prints: some plain ones, some of the added scenes, each
            between bicubic enlargement and the truth.

    Returns:
        For each way to make them, in the order of the table, its figures by name.
    """
    plain, dots = plain_pictures(PRINT), dotted_scenes(number)
    truth = torch.cat([plain, scenes, dots])
    given = (reduce(truth) * 127.5 + 127.5).round() / 127.5 - 1
    enlarged = torch.stack([enlarge(picture) for picture in given])
    first = printer.first(enlarged)
    bare = printer.prints(enlarged, [""] * len(truth), range(len(truth)), colour="None")
    made = {
        "bicubic": enlarged,
        "the truth through the autoencoder": printer.coded(truth),
        "first stage": first,
        "print, no colour fix": bare,
        "print, wavelet on first stage": colour.wavelet(bare, first),
        "print, wavelet on input": colour.wavelet(bare, enlarged),
    }
    a, b = len(plain), len(plain) + len(scenes)
    columns = [enlarged, made["print, wavelet on input"], truth]
    rows = [np.concatenate([np.asarray(to_pil(column[k])) for column in columns], 1)
            for k in (*range(min(a, 4)), *range(b, min(b + 6, len(truth))))]  # fmt: skip
    Image.fromarray(np.concatenate(rows)).save(sheet)
    return {name: _figures(pictures, truth, given, a, b) for name, pictures in made.items()}


def _figures(pictures: Tensor, truth: Tensor, given: Tensor, a: int, b: int) -> dict[str, float]:
    return {
        **{f"plain_{name}": value for name, value in plain_errors(pictures[:a], truth[:a]).items()},
        "edge_excess": edge_excess(pictures[a:], truth[a:]),
        **{f"shift_{name}": value for name, value in colour_shift(pictures[a:], given[a:]).items()},
        **{f"flecks_{name}": value for name, value in flecks(pictures[b:], truth[b:]).items()},
    }
