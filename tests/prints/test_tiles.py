"""Tiles: they cover a picture, fade into each other, and make the whole picture's pixels where they can."""

from itertools import pairwise

import pytest
import torch
from helpers.open_networks import build
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_drift.prints.tiles import Tiles


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(st.integers(1, 3000), st.integers(4, 40), st.integers(0, 20), st.integers(1, 4))
def test_tiles_cover_a_side_and_their_weights_add_up(length, size, overlap, scale):
    tiles = Tiles(16 * size, 16 * min(overlap, size // 2))
    spans = tiles.spans(length)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    total = torch.zeros(length * scale)
    for (start, end), weight in zip(spans, tiles.weights(spans, scale), strict=True):
        assert start % 16 == 0
        assert 0 < end - start <= tiles.size
        total[start * scale : end * scale] += weight
        # What a tile's edge spoils does not count, but at the picture's own edges.
        spoilt = 3 * tiles.overlap // 8 * scale
        if start > 0:
            assert not weight[:spoilt].any()
        if end < length:
            assert not weight[len(weight) - spoilt :].any()
        assert weight.min() >= 0
    for (_, end), (start, _) in pairwise(spans):
        assert end - start >= tiles.overlap
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


# They look 6, 21 and some 24 pixels far; the last one's windows begin where the whole picture's do.
@pytest.mark.parametrize(
    ("name", "tiles"),
    [
        ("Compact", Tiles(64, 16)),
        ("Compact", Tiles(64, 32)),
        ("SPAN", Tiles(128, 64)),
        ("SwinIR", Tiles(128, 64)),
    ],
)
def test_tiles_make_the_whole_pictures_pixels(name, tiles):
    network = build(name)
    picture = torch.rand(1, 3, 72, 200, generator=torch.Generator().manual_seed(1))
    whole = network(picture)
    scale = whole.shape[-1] // 200
    advanced = []
    made = tiles.enlarge(picture, scale, network, lambda: advanced.append(1))
    assert len(advanced) == tiles.count(200, 72) > 1
    torch.testing.assert_close(made, whole, rtol=0, atol=3e-5)


def test_a_network_that_looks_farther_has_no_seam():
    """Where two tiles disagree by a constant, the picture changes no faster than the fade."""
    tiles = Tiles(64, 32)
    values = iter((0.0, 1.0))

    def work(tile):
        value = next(values)
        return torch.full((1, 3, 2 * tile.shape[-2], 2 * tile.shape[-1]), value)

    row = tiles.enlarge(torch.zeros(1, 3, 8, 96), 2, work)[0, 0, 0]
    assert row[0] == 0
    assert row[-1] == 1
    assert row.diff().min() >= 0
    assert row.diff().max() <= 1 / 16 + 1e-6
