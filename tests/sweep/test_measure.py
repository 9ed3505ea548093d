"""What is measured of a sweep's pictures, from features."""

import pytest
import torch
from PIL import Image

from lightning_drift.drift.measures.features import Features
from lightning_drift.sweep.cells import Cell
from lightning_drift.sweep.measure import SweepFeatures, measure
from lightning_drift.sweep.templates import Prompt


def cell(product: str, seed: int) -> Cell:
    return Cell(product, Prompt("a tree"), seed, 3.0, 10, "pocket", 1.0)


def test_a_cell_of_one_seed_has_no_diversity_and_takes_it_from_no_other() -> None:
    pictures = Features.of([Image.new("RGB", (16, 16), shade) for shade in ("red", "blue", "green")])
    pictures.clip = torch.eye(3)
    cells = [cell("sweep", 0), cell("sweep", 1), cell("detail", 0)]
    rows = measure(cells, SweepFeatures(pictures, [0, 1, 2], [], None, {}))
    assert [row.get("diversity") for row in rows] == [1.0, 1.0, None]
    assert all("lightness" in row for row in rows)
    same = measure([cell("sweep", 0), cell("sweep", 1)], SweepFeatures(pictures, [0, 0], [], None, {}))
    assert [row["diversity"] for row in same] == pytest.approx([0, 0])
    alone = measure([cell("sweep", 0)], SweepFeatures(pictures, [0], [], None, {}))
    assert set(alone[0]) == {"lightness", "chroma"}
