"""The cache of the base model's statistics, which fits side by side write at once."""

import os
from pathlib import Path

import pytest
from helpers.overlap import write_meanwhile
from PIL import Image

from lightning_drift.drift.base import FORMAT, DriftBase
from lightning_drift.drift.measures.features import Features


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_fits_side_by_side_keep_the_same_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Features.of([Image.new("RGB", (16, 16), shade) for shade in ("red", "blue")])
    base = DriftBase({"format": FORMAT}, pictures, None, energies={"guidance": 0.5})
    write_meanwhile(monkeypatch, lambda: base.save(tmp_path))
    base.save(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    again = DriftBase.load(tmp_path, base.settings)
    assert again is not None
    assert again.energies == base.energies
