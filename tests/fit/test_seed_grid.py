"""Seed grids: what is rendered when, and where it goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.grids import GridHistory
from helpers.stand_ins import Latents
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_drift.common.errors import UserError
from lightning_drift.common.modules import eval_mode
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.grid_files import save_drift_sheet, save_pictures
from lightning_drift.fit.grid_listeners import GridPictures
from lightning_drift.fit.seed_grid import SeedGrid

GROUPS = {
    "dream": {"prompts": "a tree, a moon", "seeds": "0-2"},
    "language": {"prompts": ["a tree, a moon", "a lake"], "seeds": "1,7"},
}


Images = dict[int, Mapping[tuple[str, int], Image.Image]]


def run(tiny_sd: str, trainer: Any, folder: Path, **options: Any) -> tuple[Images, TensorBoardLogger]:
    """The pictures by step, and the logger, of a short fit."""
    grid, history = SeedGrid("0,2,3,9", GROUPS, num_inference_steps=2, batch_size=4), GridHistory()
    grid.listeners.append(history)
    logger = TensorBoardLogger(folder, name="s", version="r", default_hp_metric=False)
    module = DreamBooth(tiny_sd, learning_rate=1e-3)
    trainer(max_steps=3, callbacks=[grid], logger=logger, **options).fit(module, datamodule=Latents())
    return history.images, logger


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_prompt_and_seed_is_rendered_once_a_milestone_and_drifts(
    tiny_sd: str, trainer: Any, tmp_path: Path, accumulate: int
) -> None:
    history, logger = run(tiny_sd, trainer, tmp_path, accumulate_grad_batches=accumulate)
    assert list(history) == [0, 2, 3]
    wanted = {("a tree, a moon", seed) for seed in (0, 1, 2, 7)} | {("a lake", 1), ("a lake", 7)}
    for images in history.values():
        assert set(images) == wanted
    base, last = (np.asarray(history[step]["a lake", 1]) for step in (0, 3))
    assert not np.array_equal(base, last)
    # To TensorBoard under one tag a prompt, each milestone a step; a row holds the prompt's seeds.
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == {"grid/a-tree-a-moon", "grid/a-lake"}
    row = events.Images("grid/a-lake")
    assert [event.step for event in row] == [0, 2, 3]
    assert (row[0].width, row[0].height) == (128, 64)
    # To disk, a labelled sheet a group.
    names = sorted(path.name for path in (Path(logger.log_dir) / "grids").iterdir())
    sheets = [f"{g}_step={s:05d}.png" for g in ("dream", "language") for s in (0, 2, 3)]
    singles = ["step=00000", "step=00002", "step=00003"]
    assert names == sorted([*sheets, "dream_drift.png", "language_drift.png", *singles])
    with Image.open(Path(logger.log_dir) / "grids" / sheets[0]) as sheet:
        assert sheet.width >= 3 * 64
    single = Path(logger.log_dir) / "grids" / "step=00003" / "a-lake_seed0007.png"
    assert np.array_equal(np.asarray(Image.open(single)), np.asarray(history[3]["a lake", 7]))


class Watch(Callback):
    """Notes what of a milestone is there when its pictures are handed over, and what comes after."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[int] = []

    def on_grid(self, trainer: Any, module: Any, pictures: GridPictures) -> None:
        step = pictures.step
        self.steps.append(step)
        assert trainer.global_step == step
        assert (self.folder / "grids" / f"dream_step={step:05d}.png").is_file()
        assert len(list((self.folder / "grids" / f"step={step:05d}").iterdir())) == len(pictures.images)
        assert not (self.folder / "checkpoints" / f"step={step:05d}.ckpt").exists()


def test_listeners_are_handed_each_milestone_once_it_is_written_and_before_its_checkpoint(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    run_folder = tmp_path / "s" / "r"
    for first, steps, resume, expected in (
        (True, 2, None, [0, 2]),
        (False, 3, run_folder / "checkpoints" / "last.ckpt", [3]),
    ):
        grid, watch = SeedGrid("0,2,3,9", GROUPS, num_inference_steps=1), Watch(run_folder)
        grid.listeners.append(watch)
        save = StepCheckpoint("2,3", last_every_n_steps=1)
        callbacks: list[Callback] = [save, grid] if first else [grid, save]
        logger = TensorBoardLogger(tmp_path, name="s", version="r", default_hp_metric=False)
        trainer(max_steps=steps, callbacks=callbacks, logger=logger, accumulate_grad_batches=2).fit(
            DreamBooth(tiny_sd), datamodule=Latents(), ckpt_path=resume
        )
        assert watch.steps == expected
        assert (run_folder / "checkpoints" / f"step={steps:05d}.ckpt").is_file()


def test_a_grid_without_pictures_has_nothing_to_hand_over(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    grid, history = SeedGrid("0,1"), GridHistory()
    grid.listeners.append(history)
    trainer(max_steps=1, callbacks=[grid]).fit(DreamBooth(tiny_sd), datamodule=Latents())
    assert history.images == {}


def test_the_drift_sheet_shows_every_milestone_on_disk_with_its_step(tmp_path: Path) -> None:
    colours = {0: (200, 0, 0), 800: (0, 200, 0), 1200: (0, 0, 200)}
    for step, colour in colours.items():
        images = {(prompt, seed): Image.new("RGB", (64, 64), colour) for prompt in "ab" for seed in (3, 4)}
        save_pictures(tmp_path, step, images)
    for prompts, seeds, rows in ((["a", "b"], [3, 4], 2), (["a"], [3, 4], 2), (["b"], [4], 1)):
        save_drift_sheet(tmp_path / "g_drift.png", prompts, seeds)
        with Image.open(tmp_path / "g_drift.png") as opened:
            sheet = np.asarray(opened.convert("RGB"))
        left_edges = []
        for colour in colours.values():
            where = np.argwhere((sheet == colour).all(-1))
            assert len(where) >= rows * 64 * 64
            left_edges.append(where[:, 1].min())
        assert left_edges == sorted(left_edges)  # the base model first
        assert len(set(left_edges)) == 3


def test_the_base_grid_shows_the_base_model(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    from lightning_drift.stable_diffusion.loading import load_stable_diffusion
    from lightning_drift.stable_diffusion.sampling import Sampling, dream

    history, _ = run(tiny_sd, trainer, tmp_path)
    (image,) = dream(load_stable_diffusion(tiny_sd), ["a lake"], [7], Sampling(num_inference_steps=2))
    rendered = np.asarray(history[0]["a lake", 7], dtype=int)
    assert np.abs(rendered - np.asarray(image, dtype=int)).max() <= 1


def test_a_group_has_steps_of_its_own(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    from lightning_drift.stable_diffusion.loading import load_stable_diffusion
    from lightning_drift.stable_diffusion.sampling import Sampling, dream

    few = {"prompts": "a sea", "seeds": "3-4", "num_inference_steps": 3}
    grid, history = SeedGrid("0,1", GROUPS | {"few": few}, num_inference_steps=2), GridHistory()
    grid.listeners.append(history)
    trainer(max_steps=1, callbacks=[grid]).fit(DreamBooth(tiny_sd), datamodule=Latents())
    model = load_stable_diffusion(tiny_sd)
    for prompt, seed, steps in (("a lake", 7, 2), ("a sea", 3, 3), ("a sea", 4, 3)):
        (image,) = dream(model, [prompt], [seed], Sampling(num_inference_steps=steps))
        rendered = np.asarray(history.images[0][prompt, seed], dtype=int)
        assert np.abs(rendered - np.asarray(image, dtype=int)).max() <= 1
    assert set(history.images[1]) == set(history.images[0])
    assert (tmp_path / "grids" / "few_step=00001.png").is_file()


def test_the_picture_size_is_an_option_and_checked_before_training(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    group = {"g": {"prompts": "a lake", "seeds": 0}}
    grid, history = SeedGrid("0", group, num_inference_steps=1, width=128, height=72), GridHistory()
    grid.listeners.append(history)
    trainer(max_steps=1, callbacks=[grid]).fit(DreamBooth(tiny_sd), datamodule=Latents())
    assert history.images[0]["a lake", 0].size == (128, 72)
    grid = SeedGrid("0", group, width=101)
    with pytest.raises(UserError, match=r"seed_grid\.width: 101 is not a multiple of"):
        trainer(max_steps=1, callbacks=[grid]).fit(DreamBooth(tiny_sd), datamodule=Latents())


def test_modes_are_restored_module_by_module() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5), torch.nn.Linear(1, 1))
    net.train()
    net[2].eval()

    def fail() -> None:
        with eval_mode(net):
            assert not any(module.training for module in net.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [module.training for module in net.modules()] == [True, True, True, False]


def test_a_grid_that_cannot_be_written_does_not_stop_the_fit(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "s" / "r").mkdir(parents=True)
    (tmp_path / "s" / "r" / "grids").write_text("in the way")
    history, _ = run(tiny_sd, trainer, tmp_path)
    assert list(history) == [0, 2, 3]
    assert "cannot write the grids in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": "800;1200"}, "seed_grid.steps: '800;1200' is not a whole number or a range"),
        ({"groups": {"a": {"prompt": "x"}}}, "seed_grid.groups.a: give prompts and seeds"),
        (
            {"groups": {"a": {"prompts": "x", "seeds": "5-1"}}},
            "seed_grid.groups.a.seeds: the range 5-1 runs backwards",
        ),
        (
            {"groups": {"a": {"prompts": "no.txt"}}},
            "seed_grid.groups.a.prompts: cannot read the prompt file no.txt",
        ),
        ({"groups": {"a": {"prompts": ["A, b", "a b"]}}}, "'A, b' and 'a b' differ only in punctuation"),
        (
            {"groups": {"a": {"prompts": "x", "num_inference_steps": 0}}},
            "seed_grid.groups.a.num_inference_steps: 0 is out of range",
        ),
        (
            {"groups": {"a": {"prompts": "x"}, "b": {"prompts": ["y", "x"], "num_inference_steps": 9}}},
            "'x' is in two groups, once with 50 steps and once with 9",
        ),
        ({"num_inference_steps": 0}, "seed_grid.num_inference_steps: 0 is out of range"),
        ({"batch_size": 0}, "seed_grid.batch_size: 0"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SeedGrid(**options)
