"""Held-out photos: which ones a fit never trains on, and that none of them is trained on all the same."""

from collections.abc import Sequence

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.common.text import listed
from lightning_drift.photos.near_duplicates import alike
from lightning_drift.photos.reading import Photo

OPTION = "data.held_out"


def chosen(names: Sequence[str], number: int, seed: int) -> list[int]:
    """Which photos are held out: those with the smallest of numbers drawn from the seed and each file's name.

    So a photo that is added or removed changes at most one other photo's part.

    Args:
        names: The photos' file names.
        number: How many are held out.
        seed: The run's seed.

    Returns:
        Their indices, ascending.

    Raises:
        UserError: None would be left to train on.
    """
    if number >= len(names):
        raise UserError(
            f"{number} of {len(names)} photos held out would leave none to train on; give {len(names) - 1} "
            "or less",
            OPTION,
        )
    drawn = [float(torch.rand((), generator=generator(seed, "held out", name))) for name in names]
    return sorted(sorted(range(len(names)), key=lambda index: (drawn[index], names[index]))[:number])


def refuse_same(trained: Sequence[Photo], held_out: Sequence[Photo]) -> None:
    """Refuse a held-out photo that is trained on all the same: as another file, size or crop of a few pixels.

    Raises:
        UserError: There are such photos; all are named.
    """
    photos = [*trained, *held_out]
    exact, near = alike([photo.pixels for photo in photos], [photo.look for photo in photos])

    def names(group: list[int], low: int, high: int) -> str:
        return listed([photos[index].path.name for index in group if low <= index < high])

    count = len(trained)
    same = [
        f"{names(group, count, len(photos))} is the same picture as {names(group, 0, count)}"
        for group in (*exact, *near)
        if min(group) < count <= max(group)
    ]
    if same:
        raise UserError(
            "held-out photos must not be trained on; remove one of each, or hold out others:",
            OPTION,
            details=list(dict.fromkeys(same)),
        )
