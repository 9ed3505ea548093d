"""The drift dial: both ends to the bit, the line between, in predict, export, validate and during a fit."""

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.grids import GridHistory
from helpers.paths import DATA
from helpers.stand_ins import Latents
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lightning_drift.common.errors import UserError
from lightning_drift.dreams.dreamer import Dreamer, Prompts
from lightning_drift.export.command import export
from lightning_drift.fit.checkpointing import AtomicCheckpointIO, StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.stable_diffusion.interpolation import (
    base_of,
    interpolated,
    interpolating,
    lerp,
    load_weights_,
)
from lightning_drift.stable_diffusion.loading import load_opened, load_stable_diffusion, open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, TRAINED
from lightning_drift.stable_diffusion.sampling import Sampling, dream

ROW = {"dream": {"prompts": ["a tree, a moon", "a lake"], "seeds": "3,5"}}


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory: Any) -> Path:
    """A checkpoint of a real fit of a random model, with a UNet and text encoder that moved."""
    folder = tmp_path_factory.mktemp("dial")
    return fit(str(DATA / "tiny_sd"), folder)[1]


def fit(base: str, folder: Path, callbacks: Any = (), steps: int = 3) -> tuple[DreamBooth, Path]:
    module = DreamBooth(base, learning_rate=1e-3)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=TensorBoardLogger(folder, name="s", version="r", default_hp_metric=False),
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=[*callbacks, StepCheckpoint("2", last_every_n_steps=0)],
    )
    trainer.fit(module, datamodule=Latents())
    return module, folder / "s" / "r" / "checkpoints" / "last.ckpt"


def weights(model: Any, parts: Any = PARTS) -> dict[str, torch.Tensor]:
    return {f"{p}.{k}": t for p in parts for k, t in getattr(model, p).state_dict().items()}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal to the sign of a zero."""
    return one.keys() == other.keys() and all(
        torch.equal(one[key].view(torch.int32), other[key].view(torch.int32)) for key in one
    )


def at(checkpoint: Path, drift: float) -> Any:
    found = open_pipeline(str(checkpoint))
    return load_opened(interpolated(found, base_of(found), drift))


def test_the_ends_are_the_base_and_the_fine_tune_to_the_bit(fine_tune: Path, tiny_sd: str) -> None:
    base, tuned = (weights(load_stable_diffusion(str(path))) for path in (tiny_sd, fine_tune))
    assert same_bits(weights(at(fine_tune, 0)), base)
    assert same_bits(weights(at(fine_tune, 1)), tuned)
    # The arithmetic itself would not give them: 0 loses the sign of a zero, 1 rounds.
    zeros, ones = torch.tensor([-0.0, 1e-8]), torch.tensor([3.0, 1.0])
    assert torch.equal(lerp(zeros, ones, 0).view(torch.int32), zeros.view(torch.int32))
    assert torch.equal(lerp(torch.tensor([1e8]), torch.tensor([0.1]), 1), torch.tensor([0.1]))


@pytest.mark.parametrize("drift", [0.25, 0.8, 1.5])
def test_between_and_beyond_it_is_the_line_through_both(fine_tune: Path, tiny_sd: str, drift: float) -> None:
    base, tuned = (weights(load_stable_diffusion(str(path)), TRAINED) for path in (tiny_sd, fine_tune))
    found = weights(at(fine_tune, drift), TRAINED)
    moved = 0
    for key, tensor in found.items():
        line = base[key].double() + drift * (tuned[key].double() - base[key].double())
        torch.testing.assert_close(tensor.double(), line, rtol=3e-7, atol=3e-8)
        moved += bool((tensor != tuned[key]).any())
    assert moved > 100


def test_it_grows_with_the_dial(fine_tune: Path, tiny_sd: str) -> None:
    base = np.asarray(
        dream(load_stable_diffusion(tiny_sd), ["a lake"], [0], Sampling(num_inference_steps=4))[0], float
    )
    apart = []
    for drift in (0, 0.5, 1, 1.5):
        image = dream(at(fine_tune, drift), ["a lake"], [0], Sampling(num_inference_steps=4))[0]
        apart.append(np.abs(np.asarray(image, float) - base).mean())
    assert apart[0] == 0
    assert apart == sorted(apart)
    assert apart[1] > 0


def test_half_precision_files_dial_to_their_own_ends(fine_tune: Path, tiny_sd: str, tmp_path: Path) -> None:
    """An export names its base and is dialled from there; its ends are its own bits and the base's."""
    done = export(str(fine_tune), str(tmp_path), base=tiny_sd)
    with pytest.raises(UserError, match="was fine-tuned from tiny_sd, from where drift is measured"):
        base_of(open_pipeline(str(done.path)))
    found = open_pipeline(str(done.path))
    base = base_of(found, tiny_sd)
    tuned = load_stable_diffusion(str(done.path))
    assert same_bits(weights(load_opened(interpolated(found, base, 1))), weights(tuned))
    expected = weights(load_stable_diffusion(tiny_sd), TRAINED)
    assert same_bits(weights(load_opened(interpolated(found, base, 0)), TRAINED), expected)


def test_running_modules_are_turned_in_place_and_back(fine_tune: Path, tiny_sd: str) -> None:
    model = load_stable_diffusion(str(fine_tune))
    modules = {part: getattr(model, part) for part in TRAINED}
    before = {key: tensor.clone() for key, tensor in weights(model).items()}
    addresses = {key: tensor.data_ptr() for key, tensor in weights(model).items()}
    base = load_stable_diffusion(tiny_sd)
    found = open_pipeline(tiny_sd).weights
    with interpolating(modules, found) as move:
        for drift in (0.3, 1.5, 0):
            move(drift)
            assert same_bits(weights(model, TRAINED), weights(at(fine_tune, drift), TRAINED))
        assert same_bits(weights(model, TRAINED), weights(base, TRAINED))
        move(1)
        assert same_bits(weights(model), before)
        move(0.7)
    assert same_bits(weights(model), before)
    assert {key: tensor.data_ptr() for key, tensor in weights(model).items()} == addresses


def test_an_error_under_the_dial_gives_the_weights_back(fine_tune: Path, tiny_sd: str) -> None:
    model = load_stable_diffusion(str(fine_tune))
    before = {key: tensor.clone() for key, tensor in weights(model).items()}

    def fail() -> None:
        with interpolating({"unet": model.unet}, open_pipeline(tiny_sd).weights) as move:
            move(0.7)
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert same_bits(weights(model), before)


def test_a_module_in_half_precision_is_the_float32_line_rounded_once(fine_tune: Path) -> None:
    found = open_pipeline(str(fine_tune))
    model = load_stable_diffusion(str(fine_tune))
    model.unet.half()
    load_weights_({"unet": model.unet}, interpolated(found, base_of(found), 0.6).weights)
    exact = at(fine_tune, 0.6).unet.state_dict()
    assert all(torch.equal(tensor, exact[name].half()) for name, tensor in model.unet.state_dict().items())


# -- predict --


def predict(trainer: Any, folder: Path, **options: Any) -> ImageWriter:
    writer = ImageWriter(str(folder), contact_sheet=False)
    dreamer = Dreamer(num_inference_steps=2, **options)
    trainer(callbacks=[writer]).predict(
        dreamer, datamodule=Prompts("a lake", "0-1"), return_predictions=False
    )
    return writer


def test_predict_dreams_at_a_drift_and_says_so(fine_tune: Path, trainer: Any, tmp_path: Path) -> None:
    plain = predict(trainer, tmp_path, pipeline=str(fine_tune))
    turned = predict(trainer, tmp_path, pipeline=str(fine_tune), drift=0.4)
    assert len(plain.written) == len(turned.written) == 2
    assert not set(plain.written) & set(turned.written)
    texts = [Image.open(path).text["parameters"] for path in (plain.written[0], turned.written[0])]
    assert "Drift" not in texts[0]
    assert ", Drift: 0.4, Drift base hash: " in texts[1]
    assert len(predict(trainer, tmp_path, pipeline=str(fine_tune), drift=0.4).skipped) == 2
    assert len(predict(trainer, tmp_path, pipeline=str(fine_tune), drift=0.5).written) == 2
    expected = dream(at(fine_tune, 0.4), ["a lake", "a lake"], [0, 1], Sampling(num_inference_steps=2))
    for path, image in zip(turned.written, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"drift": 2.0}, r"model\.drift: 2 is out of range; give 0 \(the base\) to 1\.5"),
        ({"drift": float("nan")}, r"model\.drift: nan is out of range"),
        ({"drift": 0.5}, "does not say which model it was fine-tuned from"),
        ({"drift": 0.5, "base": "pocket"}, "pocket cannot be the base of .*tiny_sd: the unet differs in"),
        ({"drift": 0.5, "base": "nowhere"}, "fine-tuned from nowhere, .* cannot be loaded: no such model"),
    ],
)
def test_what_cannot_be_dialled_is_said(tiny_sd: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Dreamer(tiny_sd, **options).configure_model()


# -- export --


def test_an_export_at_a_drift_holds_the_dialled_model(fine_tune: Path, tmp_path: Path) -> None:
    done = export(str(fine_tune), str(tmp_path), drift=0.8)
    assert done.path.name == "s-r-step00003-drift0.8.safetensors"
    written, exact = load_stable_diffusion(str(done.path)), at(fine_tune, 0.8)
    rounded = {key: tensor.half().float() for key, tensor in weights(exact).items()}
    assert same_bits(weights(written), rounded)
    assert written.recipe is not None
    assert written.recipe["drift"] == 0.8
    card = done.path.with_name(f"{done.path.stem}.README.md").read_text()
    assert "its drift dialled to 0.8" in card
    assert "| drift | `0.8` |" in card
    # Half of an export at 0.8 is 0.4 of the fine-tune, and its name and recipe say so.
    again = interpolated(open_pipeline(str(done.path)), base_of(open_pipeline(str(fine_tune))), 0.5)
    assert again.recipe is not None
    assert again.recipe["drift"] == 0.4
    with pytest.raises(UserError, match=r"--drift: 1\.6 is out of range"):
        export(str(fine_tune), str(tmp_path), drift=1.6)


# -- fit and validate --


def test_the_dial_in_a_fit_shows_a_row_and_changes_no_bit(tiny_sd: str, tmp_path: Path) -> None:
    # The optimizer's moments and the weights of two runs, one with the row before the last step.
    grid, history = SeedGrid("0,2", ROW, num_inference_steps=2, drift_dial="0,0.5,1,1.5"), GridHistory()
    grid.listeners.append(history)
    watched, with_row = fit(tiny_sd, tmp_path / "a", [grid])
    alone, without = fit(tiny_sd, tmp_path / "b")
    assert same_bits(weights(watched, TRAINED), weights(alone, TRAINED))
    states = [torch.load(path, weights_only=True)["optimizer_states"] for path in (with_row, without)]
    for one, other in zip(states[0][0]["state"].values(), states[1][0]["state"].values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    # At step 0 there is nothing to dial.
    grids = with_row.parents[1] / "grids"
    assert [path.name for path in grids.glob("dial*")] == ["dial_step=00002.png"]
    events = EventAccumulator(str(with_row.parents[1]), size_guidance={"images": 0})
    events.Reload()
    (event,) = events.Images("dial/a-tree-a-moon")
    assert (event.step, event.width, event.height) == (2, 4 * 64, 64)
    # Its pictures are the base's, those on the way, the milestone's own, and beyond.
    row = np.asarray(Image.open(BytesIO(event.encoded_image_string)).convert("RGB"), int)
    base, half, own, beyond = (row[:, 64 * i : 64 * (i + 1)] for i in range(4))
    checkpoint = with_row.with_name("step=00002.ckpt")
    for shown, drift in ((base, 0), (half, 0.5), (own, 1), (beyond, 1.5)):
        (image,) = dream(at(checkpoint, drift), ["a tree, a moon"], [3], Sampling(num_inference_steps=2))
        assert np.abs(shown - np.asarray(image, int)).max() <= 1
    assert np.abs(own - np.asarray(history.images[2]["a tree, a moon", 3], int)).max() <= 1


def test_validate_renders_the_row_of_a_checkpoint(
    fine_tune: Path, tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    grid = SeedGrid("", ROW, num_inference_steps=1, drift_dial=[0.5, 1.25])
    module = DreamBooth(tiny_sd)
    trainer(callbacks=[grid]).validate(module, DataLoader([0]), ckpt_path=str(fine_tune), verbose=False)
    assert (tmp_path / "validate" / "step=00003" / "dial_step=00003.png").is_file()
    assert same_bits(weights(module, TRAINED), weights(load_stable_diffusion(str(fine_tune)), TRAINED))


def test_a_base_that_is_gone_costs_the_row_and_not_the_run(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    copy = tmp_path / "base"
    shutil.copytree(tiny_sd, copy)

    class Remove(SeedGrid):
        def on_fit_start(self, *args: Any) -> None:
            shutil.rmtree(copy)

    grid, history = Remove("1", ROW, num_inference_steps=1, drift_dial="0.5"), GridHistory()
    grid.listeners.append(history)
    trainer(max_steps=2, callbacks=[grid]).fit(DreamBooth(str(copy)), datamodule=Latents())
    assert list(history.images) == [1]
    assert "cannot make the dial's row at step 1: no such model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"drift_dial": "0.5;1"}, "seed_grid.drift_dial: '0.5;1' is not a list of numbers"),
        ({"drift_dial": "0.5,2"}, "seed_grid.drift_dial: 2 is out of range"),
        (
            {"drift_dial": "0.5", "groups": {"dial": {"prompts": "x", "seeds": 0}}},
            "seed_grid.groups: the name dial is that of a row of drifts",
        ),
    ],
)
def test_bad_rows_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SeedGrid(**options)
