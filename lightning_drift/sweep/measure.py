"""Measures of a sweep's pictures, against the base's of the same cell, the prompt and the photos."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor

from lightning_drift.drift.measures.by_clip import PULL_FLOOR
from lightning_drift.drift.measures.composition import layout_directions
from lightning_drift.drift.measures.copying import correlations
from lightning_drift.drift.measures.features import Features
from lightning_drift.sweep.cells import AXES, Cell

PICTURE_MEASURES = {
    "drift_from_base": "1 - cosine of the CLIP embeddings of the picture and the base's of the same cell",
    "pull": "how far it went from the base's picture to the photos; 1 is as near as they are to each other",
    "adherence": "cosine with its own prompt less the mean with the sweep's other prompts",
    "clip_t": "cosine with its own prompt",
    "diversity": "mean 1 - cosine between the seeds of its cell",
    "tilt": "1 - correlation of its light and dark with the base's picture",
    "delta_e": "distance of its mean colour from the base's picture's, in CIELAB (2.3 is just noticeable)",
    "lightness": "mean L*, 0 to 100",
    "chroma": "distance of its mean colour from grey, in CIELAB",
    "likeness": "highest correlation of its thumbnail with a photo's, mirrored ones too",
}
"""The measures in their order, and what each is."""


@dataclass
class SweepFeatures:
    """Features of a sweep's pictures, and which of them belong to which cell.

    Attributes:
        features: Features of all pictures.
        now: For each cell, the position of its picture in them.
        base: For each cell, the position of its base's picture; empty if the bases are not rendered.
        texts: The prompts' CLIP embeddings by prompt; None without CLIP.
        photos: Features of the photos by checkpoint, for the checkpoints whose photos are at hand.
    """

    features: Features
    now: Sequence[int]
    base: Sequence[int]
    texts: Mapping[str, Tensor] | None
    photos: Mapping[str, Features]


def measure(cells: Sequence[Cell], pictures: SweepFeatures) -> list[dict[str, float]]:
    """Measure each cell's picture, as far as CLIP, bases and photos allow.

    Args:
        cells: The cells.
        pictures: Features of their pictures.

    Returns:
        For each cell its measures by name, in the order of `PICTURE_MEASURES`.
    """
    now = pictures.features[pictures.now]
    base = pictures.features[pictures.base] if len(pictures.base) else None
    columns: dict[str, Tensor] = {"lightness": now.lab[:, 0], "chroma": now.lab[:, 1:].norm(dim=1)}
    if base is not None:
        apart = layout_directions(now.layout) - layout_directions(base.layout)
        columns["tilt"] = apart.square().sum(1) / 2
        columns["delta_e"] = (now.lab - base.lab).norm(dim=1)
    if now.clip is not None:
        columns |= _by_clip(cells, now.clip, base.clip if base is not None else None, pictures.texts)
    rows = [
        {name: value for name, value in zip(columns, values, strict=True) if not isnan(value)}
        for values in _rows(columns)
    ]
    for name, photos in pictures.photos.items():
        own = [index for index, cell in enumerate(cells) if cell.checkpoint == name]
        for index, values in zip(own, _rows(_by_photos(own, now, base, photos)), strict=True):
            rows[index] |= dict(zip(("likeness", "pull"), values, strict=False))
    return [{name: round(row[name], 5) for name in PICTURE_MEASURES if name in row} for row in rows]


def _rows(columns: Mapping[str, Tensor]) -> list[list[float]]:
    rows: list[list[float]] = torch.stack([column.double() for column in columns.values()], 1).tolist()
    return rows


def _by_clip(
    cells: Sequence[Cell], now: Tensor, base: Tensor | None, texts: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    now = now.double()
    columns = {"diversity": _diversity(cells, now)}
    if base is not None:
        columns["drift_from_base"] = (now - base.double()).square().sum(1) / 2
    if texts is not None:
        own = torch.stack([texts[cell.prompt.text] for cell in cells]).double()
        columns["clip_t"] = (now * own).sum(1)
        if len(texts) > 1:
            together = now @ torch.stack(list(texts.values())).double().sum(0)
            columns["adherence"] = columns["clip_t"] - (together - columns["clip_t"]) / (len(texts) - 1)
    return columns


def _diversity(cells: Sequence[Cell], now: Tensor) -> Tensor:
    """For each cell, how its seeds differ; NaN where there is one seed, which tells nothing."""
    members = defaultdict(list)
    for index, cell in enumerate(cells):
        members[(cell.product, *(getattr(cell, axis) for axis in AXES if axis != "seed"))].append(index)
    diversity = torch.full((len(cells),), torch.nan, dtype=torch.float64)
    for indices in members.values():
        count = len(indices)
        if count > 1:
            likeness = (now[indices].sum(0).square().sum() - count) / (count * (count - 1))
            diversity[indices] = (1 - likeness).clamp(min=0)
    return diversity


def _by_photos(
    own: Sequence[int], now: Features, base: Features | None, photos: Features
) -> dict[str, Tensor]:
    columns = {"likeness": correlations(now.thumbnail[own], photos.thumbnail).max(1).values}
    if now.clip is not None and base is not None and base.clip is not None and photos.clip is not None:
        vectors = photos.clip.double()
        middle, count = vectors.mean(0), len(vectors)
        among = (count * middle.square().sum() - 1) / (count - 1) if count > 1 else torch.tensor(1.0)
        before, after = base.clip[own].double() @ middle, now.clip[own].double() @ middle
        columns["pull"] = (after - before) / (among - before).clamp(min=PULL_FLOOR)
    return columns
