"""The base's pictures on disk: the bits of those that would be rendered, for whoever asks the same."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.grids import GridHistory
from helpers.stand_ins import Latents
from lightning.pytorch.callbacks import Callback
from PIL import Image

from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.sweep.data import Sweep
from lightning_drift.sweep.sweep_dreamer import SweepDreamer

GROUPS: dict[str, dict[str, Any]] = {
    "dream": {"prompts": "a tree, a moon", "seeds": "0-2"},
    "language": {"prompts": ["a lake", "a red car"], "seeds": "1,7", "num_inference_steps": 1},
}
Images = Mapping[tuple[str, int], Image.Image]


class Asked:
    """How many latents the denoiser was asked about, several at a time, while no gradient was wanted."""

    count = 0


@contextmanager
def counted() -> Iterator[Asked]:
    asked = Asked()

    def see(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if (
            type(module).__name__ == "UNet2DConditionModel"
            and not torch.is_grad_enabled()
            and len(args[0]) > 1
        ):
            asked.count += len(args[0])

    handle = torch.nn.modules.module.register_module_forward_pre_hook(see)
    try:
        yield asked
    finally:
        handle.remove()


def base_pictures(
    tiny_sd: str, trainer: Any, cache: Path | None, *others: Callback, ckpt: Any = None, **options: Any
) -> tuple[Images, int]:
    """The pictures of step 0, and how many latents were asked about for them."""
    settings = {"groups": GROUPS, "num_inference_steps": 2, "batch_size": 4} | options
    grid, history = SeedGrid("0", cache_dir=None if cache is None else str(cache), **settings), GridHistory()
    grid.listeners.append(history)
    module = DreamBooth(tiny_sd, learning_rate=1e-3)
    with counted() as asked:
        trainer(max_steps=1, callbacks=[*others, grid]).fit(module, datamodule=Latents(), ckpt_path=ckpt)
    return history.images[0], asked.count


def same(one: Images, other: Images) -> bool:
    return all(np.array_equal(np.asarray(one[key]), np.asarray(other[key])) for key in one)


# Of each picture's steps, with and without the prompt; the dream's three are one batch.
ALL = 2 * (3 * 2 + 4 * 1)


def test_a_second_fit_takes_the_bits_of_the_first(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    alone, asked = base_pictures(tiny_sd, trainer, None)
    assert asked == ALL
    first, asked = base_pictures(tiny_sd, trainer, tmp_path / "base")
    assert asked == ALL
    second, asked = base_pictures(tiny_sd, trainer, tmp_path / "base")
    assert asked == 0
    assert list(first) == list(second) == list(alone)
    assert same(first, alone)
    assert same(second, alone)
    assert len(list((tmp_path / "base").iterdir())) == 7


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: Image.new("RGB", (64, 64)).save(path),
    ],
    ids=["gone", "cut", "another picture"],
)
def test_what_is_missing_or_damaged_is_made_again_with_the_same_bits(
    tiny_sd: str, trainer: Any, tmp_path: Path, harm: Any
) -> None:
    first, _ = base_pictures(tiny_sd, trainer, tmp_path / "base")
    harm(min((tmp_path / "base").iterdir()))
    second, asked = base_pictures(tiny_sd, trainer, tmp_path / "base")
    assert 0 < asked < ALL
    assert same(second, first)
    assert base_pictures(tiny_sd, trainer, tmp_path / "base")[1] == 0


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"groups": GROUPS | {"more": {"prompts": "a sea", "seeds": "5", "num_inference_steps": 3}}}, 6),
        ({"groups": {"dream": GROUPS["dream"]}}, 0),
        ({"guidance_scale": 2.0}, ALL),
        ({"negative_prompt": "rain"}, ALL),
        ({"width": 72}, 0 + ALL),
        ({"batch_size": 2}, None),
        ({"width": 64}, 0),  # the model's own
    ],
    ids=str,
)
def test_another_fit_makes_what_differs(
    tiny_sd: str, trainer: Any, tmp_path: Path, change: dict[str, Any], asked: int | None
) -> None:
    base_pictures(tiny_sd, trainer, tmp_path / "base")
    pictures, made = base_pictures(tiny_sd, trainer, tmp_path / "base", **change)
    assert made == asked or (asked is None and made > 0)
    assert same(pictures, base_pictures(tiny_sd, trainer, None, **change)[0])


class Turned(Callback):
    """Changes the weights before the fit begins."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.unet.conv_out.bias.add_(0.5)


def test_a_model_that_was_changed_is_no_base(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    first, _ = base_pictures(tiny_sd, trainer, tmp_path / "base")
    turned, asked = base_pictures(tiny_sd, trainer, tmp_path / "base", Turned())
    assert asked == ALL
    assert not same(turned, first)


def test_a_folder_that_cannot_be_written_costs_a_notice(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("in the way")
    pictures, _ = base_pictures(tiny_sd, trainer, tmp_path / "file" / "cache")
    told = [line for line in capsys.readouterr().err.splitlines() if "cannot be kept" in line]
    assert len(told) == 1
    assert same(pictures, base_pictures(tiny_sd, trainer, None)[0])


def swept(tiny_sd: str, trainer: Any, to: Path, cache: Path | None) -> tuple[dict[str, Image.Image], int]:
    """The pictures of a sweep over the language group's prompts and seeds, and how many latents it took."""
    data = Sweep(
        tiny_sd,
        prompts=GROUPS["language"]["prompts"],
        seeds="1,7",
        num_inference_steps=1,
        batch_size=4,
        measure=False,
    )
    dreamer = SweepDreamer(cache_dir=None if cache is None else str(cache))
    with counted() as asked:
        trainer(callbacks=[ImageWriter(str(to), contact_sheet=False)]).predict(dreamer, datamodule=data)
    return {path.name: Image.open(path).copy() for path in (to / "images").glob("*.png")}, asked.count


def test_sweeps_and_fits_share_the_pictures_of_a_base(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    alone, asked = swept(tiny_sd, trainer, tmp_path / "alone", None)
    assert (len(alone), asked) == (4, 8)
    assert swept(tiny_sd, trainer, tmp_path / "first", base)[1] == 8
    fitted, asked = base_pictures(tiny_sd, trainer, base)
    assert asked == ALL - 8
    again, asked = swept(tiny_sd, trainer, tmp_path / "second", base)
    assert asked == 0
    assert alone.keys() == again.keys()
    for name, image in alone.items():
        prompt = "a lake" if name.startswith("a-lake") else "a red car"
        seed = 1 if "_seed0001" in name else 7
        for other in (again[name], fitted[prompt, seed]):
            assert np.array_equal(np.asarray(image), np.asarray(other))
