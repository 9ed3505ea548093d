"""Finished sweeps as files: pictures, maps, the index and the ranking page, without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lightning_drift.images.overlay import overlay
from lightning_drift.sweep.cells import Cell
from lightning_drift.sweep.index import Index
from lightning_drift.sweep.page import write_page
from lightning_drift.sweep.templates import Prompt

FACTS: dict[str, Any] = {
    "negative_prompt": "a blur",
    "height": None,
    "width": None,
    "generator_device": "cpu",
    "dtype": "auto",
    "base": None,
}


def write_sweep(
    folder: Path,
    prompts: Sequence[str] = ("a tower", "a lake"),
    side: int = 64,
    drift: float = 1.0,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Write a sweep of two pictures for each prompt, each with its base's and a map; the folder.

    Args:
        folder: Where to.
        prompts: Its prompts.
        side: Width and height of the pictures.
        drift: The drift of all pictures.
        facts: What its commands say otherwise than ``FACTS``.
    """
    (folder / "images").mkdir(parents=True)
    cells = [
        Cell("sweep", Prompt(text), seed, 3.0, 50, "a.ckpt", drift) for text in prompts for seed in (0, 1)
    ]
    files, maps = [], []
    for place in range(len(cells)):
        files.append(f"images/{place}.png")
        maps.append(f"images/{place}_map.png")
        Image.new("RGB", (side, side), (20 + place, 90, 200)).save(folder / files[-1])
        overlay(Image.linear_gradient("L").resize((side, side))).save(folder / maps[-1])
    Image.new("RGB", (side, side), (200, 9, 9)).save(folder / "images" / "base #.png")
    measures = [{"tilt": place / 10} for place in range(len(cells))]
    index = Index.of(cells, files, ["images/base #.png"] * len(cells), measures, maps)
    index.save(folder / "index.csv")
    write_page(
        folder / "sweep.html", index, {name: name for name in files}, folder.name, FACTS | (facts or {})
    )
    return folder
