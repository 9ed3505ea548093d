"""Windows of sampling leave no lines in a print."""

import numpy as np
import pytest
from helpers.supir.running import photo, pixels, predict

from lightning_drift import SupirUpscaler, UpscaleImages

PLAIN = {"prompt": "", "negative_prompt": ""}


def roughness(levels, axis):
    """Mean second difference across each inner line, [lines]: a seam is a line that stands out."""
    second = np.abs(np.diff(levels.astype(float), 2, axis=axis))
    return second.mean(axis=tuple(k for k in range(3) if k != axis))


def assert_without_lines(levels, edges, axis):
    """At the windows' edges and in the middle of their overlaps a print is as smooth as elsewhere."""
    lines = roughness(levels, axis)
    for edge in edges:
        assert lines[edge - 2 : edge + 2].max() < 1.5 * np.quantile(lines, 0.95)


def test_two_windows_of_the_pocket(tmp_path):
    photo(tmp_path / "a.png", size=(64, 42), seed=3)
    options = {"min_size": 240, "edm_steps": 4, "tile_size": 256, "s_stage1": 1.0}
    module = SupirUpscaler("pocket", "pocket", upscale=6.0, **PLAIN, **options)
    made = predict(module, UpscaleImages(str(tmp_path / "a.png")), tmp_path / "out").written[0]
    levels = pixels(made)
    assert levels.shape == (252, 384, 3)
    assert module.method().tiling(384, 256).starts(384 // 4) == [0, 32]
    assert_without_lines(levels, (128, 192, 256), axis=1)


@pytest.mark.slow
def test_a_print_of_ten_centimetres(tmp_path):
    """18 times a dream in three passes, in 36 windows: some ten minutes."""
    photo(tmp_path / "a.png", size=(64, 64), seed=3)
    module = SupirUpscaler("pocket", "pocket", **PLAIN, min_size=256, edm_steps=10, s_stage1=1.0)
    data = UpscaleImages(str(tmp_path / "a.png"), print="10x10cm")
    levels = pixels(predict(module, data, tmp_path / "out").written[0])
    assert levels.shape == (1181, 1181, 3)
    starts = [4 * start for start in module.method().tiling(1184, 1184).starts(296)]
    assert len(starts) == 6
    edges = {edge for start in starts for edge in (start, start + 32, start + 256) if 8 < edge < 1172}
    for axis in (0, 1):
        assert_without_lines(levels, edges, axis)
