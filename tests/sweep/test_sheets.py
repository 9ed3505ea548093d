"""Contact sheets of a sweep: which there are, and that each has a file of its own."""

from pathlib import Path

import pytest
from PIL import Image

from lightning_drift.common.atomic import atomic_write
from lightning_drift.sweep.cells import Cell
from lightning_drift.sweep.index import Index
from lightning_drift.sweep.sheets import sheets
from lightning_drift.sweep.templates import Prompt

RUN = "tb_logs/coffee/corridor/lr2e-6/checkpoints"


def index_of(folder: Path, prompts: list[str], checkpoints: list[str], products: list[str]) -> Index:
    """Guidance scales and steps crossed for each prompt, checkpoint and product, with one picture for all."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    cells = [
        Cell(product, Prompt(prompt), 0, guidance, steps, checkpoint, 1.0)
        for product in products
        for checkpoint in checkpoints
        for prompt in prompts
        for guidance in (1.0, 3.0)
        for steps in (10, 20)
    ]
    return Index.of(cells, ["a.png"] * len(cells), [], [{}] * len(cells))


LONG = "a tower of " + "very " * 12 + "old stones above a sea without any wind"


@pytest.mark.parametrize(
    ("prompts", "checkpoints", "products", "count"),
    [
        ([LONG, "a tree"], [f"{RUN}/step=00800.ckpt", f"{RUN}/step=01200.ckpt"], ["sweep"], 4),
        (["a tree", "A tree!"], ["pocket"], ["sweep"], 2),
        (["a tree", "a moon"], ["a b.ckpt", "a-b.ckpt"], ["sweep"], 4),
        (["a tree"], ["pocket"], ["sweep", "fine/detail", "fine detail"], 3),
        (["山" * 90, "海" * 90], ["山" * 90, "海" * 90], ["sweep"], 4),
    ],
)
def test_every_sheet_has_a_file_of_its_own(
    tmp_path: Path, prompts: list[str], checkpoints: list[str], products: list[str], count: int
) -> None:
    index = index_of(tmp_path, prompts, checkpoints, products)
    for name, _sheet in sheets(index, tmp_path, (None, None), 10):
        with atomic_write(tmp_path / "sheets" / f"{name}.png") as file:
            file.write(b"x")
    assert len(list((tmp_path / "sheets").iterdir())) == count


def test_a_sheet_is_named_by_its_parameters_and_the_same_each_time(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["a tree", LONG], ["pocket"], ["sweep"])
    names = [name for name, _ in sheets(index, tmp_path, (None, None), 10)]
    assert names[0] == "sweep_guidance_scale-by-num_inference_steps_a-tree"
    assert names == [name for name, _ in sheets(index, tmp_path, (None, None), 10)]
    assert names[:1] == [name for name, _ in sheets(index, tmp_path, (None, None), 1)]


def test_a_side_with_many_values_goes_on_on_further_sheets(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    cells = [
        Cell("sweep", Prompt(f"{LONG} {number}"), seed, 3.0, 50, "pocket", 1.0)
        for number in range(201)
        for seed in (0, 1)
    ]
    index = Index.of(cells, ["a.png"] * len(cells), [], [{}] * len(cells))
    found = dict(sheets(index, tmp_path, (None, None), 10))
    assert list(found) == [f"sweep_prompt-by-seed_{number:04d}" for number in (1, 2, 3)]
    heights = [sheet.height for sheet in found.values()]
    assert heights[0] == heights[1] > 10 * heights[2]
    assert max(heights) < 20_000
    both = dict(sheets(index, tmp_path, ("prompt", None), 1))
    assert list(both) == ["sweep_seed-by-prompt_0001"]
    assert both["sweep_seed-by-prompt_0001"].width < 10_000


def test_sheets_of_many_combinations_hold_their_own_rows(tmp_path: Path) -> None:
    """Each combination's rows are found in one pass, in the order of the index."""
    cells = [
        Cell("sweep", Prompt(f"p{number}"), seed, guidance, 50, "pocket", 1.0)
        for guidance in (1.0, 3.0)
        for number in range(300)
        for seed in (0, 1)
    ]
    index = Index.of(cells, [f"{number}.png" for number in range(len(cells))], [], [{}] * len(cells))
    parts = index.by("prompt", "drift", "nowhere")
    assert list(parts)[:2] == [("p0", 1.0, None), ("p1", 1.0, None)]
    assert [row["file"] for row in parts["p1", 1.0, None].rows] == ["2.png", "3.png", "602.png", "603.png"]
    assert sum(len(part.rows) for part in parts.values()) == len(cells)
