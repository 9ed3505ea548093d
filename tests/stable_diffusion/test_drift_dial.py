"""The drift dial part by part: how it is written, whose bits its ends are, and where it is named."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.fits import fit_checkpoint
from helpers.paths import DATA
from helpers.stand_ins import Latents
from PIL import Image

from lightning_drift.cli import main
from lightning_drift.common.errors import UserError
from lightning_drift.dreams.dreamer import Dreamer, Prompts
from lightning_drift.export.command import export
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.stable_diffusion.drift_dial import (
    PartDrifts,
    dial_name,
    dial_title,
    from_recipe,
    product,
    read_drift,
    read_drifts,
    recorded,
)
from lightning_drift.stable_diffusion.interpolation import base_of, interpolated
from lightning_drift.stable_diffusion.loading import load_opened, load_stable_diffusion, open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED
from lightning_drift.stable_diffusion.sampling import Sampling, dream
from lightning_drift.sweep.data import Sweep
from lightning_drift.sweep.sweep_dreamer import SweepDreamer

TINY = str(DATA / "tiny_sd")
HALF = "unet=1,text_encoder=0.5"


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory: Any) -> str:
    return str(fit_checkpoint(tmp_path_factory.mktemp("dial") / "step=01200.ckpt", TINY))


@pytest.fixture(scope="module")
def unet_alone(fine_tune: str, tmp_path_factory: Any) -> str:
    """The checkpoint of a fit that left the text encoder frozen."""
    content = torch.load(fine_tune, weights_only=True)
    content["recipe"]["train_text_encoder"] = False
    path = tmp_path_factory.mktemp("alone") / "step=01200.ckpt"
    torch.save(content, path)
    return str(path)


# -- how it is written --


@pytest.mark.parametrize(
    ("text", "drift"),
    [
        (0.7, 0.7),
        ("0.7", 0.7),
        (HALF, PartDrifts(1.0, 0.5)),
        (" text_encoder = 0.5 , unet=1.25", PartDrifts(1.25, 0.5)),
        ("text_encoder=0.5", PartDrifts(1.0, 0.5)),
        ("unet=0", PartDrifts(0.0, 1.0)),
        ("unet=0.5,text_encoder=0.5", 0.5),
        ("unet=1e-1", PartDrifts(0.1, 1.0)),
    ],
)
def test_a_value_is_a_number_or_one_for_each_part(text: Any, drift: Any) -> None:
    assert read_drift(text, "model.drift") == drift
    assert type(read_drift(text, "")) is type(drift)
    assert read_drift(f"{drift:g}", "") == from_recipe(recorded(drift)) == drift  # as it is written out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vae=0.5", "model.drift: 'vae' is no part that a fit changes; give unet, text_encoder or both"),
        ("unet=0.5,0.7", "'0.7' is no part"),
        ("UNet=1", "'UNet' is no part"),
        ("unet=1,unet=0.5", "unet is given twice"),
        ("unet=1,text_encoder=2", r"text_encoder=2 is out of range; give 0 \(the base\) to 1\.5"),
        ("unet=nan", "model.drift: nan is out of range"),
        ("unet=", "unet='' is not a number; write for example unet=1"),
        ("unet=half", "unet='half' is not a number"),
        ("unet=1,", "'' is no part"),
        ("half", "'half' is not a number, nor one for each part, such as unet=1,text_encoder=0.5"),
        (True, "True is not a number"),
        (-0.1, "-0.1 is out of range"),
    ],
)
def test_what_is_no_value_is_refused_in_a_sentence(text: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        read_drift(text, "model.drift")
    assert refused.value.option == "model.drift"


@pytest.mark.parametrize(
    ("values", "drifts"),
    [
        ("0.5,1", [0.5, 1.0]),
        (f"0.5,{HALF},0.5", [0.5, PartDrifts(1.0, 0.5)]),
        ("unet=1,text_encoder=0.5,unet=0.5,text_encoder=1", [PartDrifts(1.0, 0.5), PartDrifts(0.5, 1.0)]),
        ("unet=0.5;text_encoder=0.5;0.25", [PartDrifts(0.5, 1.0), PartDrifts(1.0, 0.5), 0.25]),
        ("text_encoder=0,text_encoder=0.5,1", [PartDrifts(1.0, 0.0), PartDrifts(1.0, 0.5), 1.0]),
        ([0.5, HALF], [0.5, PartDrifts(1.0, 0.5)]),
        (HALF, [PartDrifts(1.0, 0.5)]),
        (0.25, [0.25]),
    ],
)
def test_lists_mix_both(values: Any, drifts: Any) -> None:
    assert read_drifts(values, "data.drift") == drifts


@pytest.mark.parametrize("values", ["unet=0.5,x", ["unet=0.5", None], ["unet=0.5", [2]], "unet=0.5;9"])
def test_bad_lists_are_refused(values: Any) -> None:
    with pytest.raises(UserError, match=r"^data\.drift: "):
        read_drifts(values, "data.drift")


def test_its_names() -> None:
    parts = PartDrifts(1.0, 0.5)
    assert (str(parts), f"{parts:g}", dial_title(parts)) == (HALF, HALF, "unet 1, text encoder 0.5")
    assert (dial_name(parts), dial_name(0.5)) == ("drift-unet1-text_encoder0.5", "drift0.5")
    assert product(parts, 0.5) == PartDrifts(0.5, 0.25)
    assert product(parts, PartDrifts(0.5, 1.0)) == 0.5
    assert json.loads(json.dumps(recorded(parts))) == HALF


# -- whose bits --


def bits(model: Any, part: str) -> dict[str, torch.Tensor]:
    return {name: tensor.view(torch.int32) for name, tensor in getattr(model, part).named_parameters()}


def at(checkpoint: str, drift: Any) -> Any:
    found = open_pipeline(checkpoint)
    return load_opened(interpolated(found, base_of(found), drift))


def test_each_part_has_its_own_ends_to_the_bit(fine_tune: str) -> None:
    ends = {0: load_stable_diffusion(TINY), 1: load_stable_diffusion(fine_tune)}
    assert not all(torch.equal(t, bits(ends[1], "unet")[n]) for n, t in bits(ends[0], "unet").items())
    for drift in (PartDrifts(1.0, 0.0), PartDrifts(0.0, 1.0)):
        model = at(fine_tune, drift)
        for part, end in zip(TRAINED, drift, strict=True):
            theirs = bits(ends[int(end)], part)
            assert all(torch.equal(tensor, theirs[name]) for name, tensor in bits(model, part).items())
    half = at(fine_tune, PartDrifts(1.0, 0.5))
    for part, same in (("unet", at(fine_tune, 1)), ("text_encoder", at(fine_tune, 0.5))):
        theirs = bits(same, part)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in bits(half, part).items())


def test_a_text_encoder_that_was_not_trained_has_no_drift_of_its_own(unet_alone: str, trainer: Any) -> None:
    said = (
        r"left the text encoder as it was \(train_text_encoder false\), and no drift changes it; give 1 alone"
    )
    with pytest.raises(UserError, match=rf"^model\.drift: the fit of .* {said}"):
        Dreamer(unet_alone, drift="text_encoder=0.5").configure_model()
    with pytest.raises(UserError, match=rf"^data\.drift: .* {said}"):
        _ = Sweep(unet_alone, drift=HALF).grid
    with pytest.raises(UserError, match=rf"^--drift: .* {said}"):
        export(unet_alone, "/tmp/never", drift=HALF)
    grid = SeedGrid("1", {"a": {"prompts": "x", "seeds": 0}}, drift_dial=HALF)
    with pytest.raises(UserError, match=rf"^seed_grid\.drift_dial: the fit of this run {said}"):
        trainer(max_steps=1, callbacks=[grid]).fit(
            DreamBooth(TINY, train_text_encoder=False), datamodule=Latents()
        )
    Dreamer(unet_alone, drift="unet=0.5").configure_model()  # all that there is to turn


# -- where it is named --


def test_predict_names_it_in_the_picture(fine_tune: str, trainer: Any, tmp_path: Path) -> None:
    writer = ImageWriter(str(tmp_path), contact_sheet=False)
    dreamer = Dreamer(fine_tune, drift=HALF, num_inference_steps=2)
    trainer(callbacks=[writer]).predict(dreamer, datamodule=Prompts("a lake", "0"), return_predictions=False)
    (path,) = writer.written
    assert f', Drift: "{HALF}", Drift base hash: ' in Image.open(path).text["parameters"]
    (expected,) = dream(at(fine_tune, PartDrifts(1.0, 0.5)), ["a lake"], [0], Sampling(num_inference_steps=2))
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))


def test_a_sweep_has_it_as_an_axis(fine_tune: str, trainer: Any, tmp_path: Path) -> None:
    drifts = f"0,1,{HALF};unet=0.5"
    data = Sweep(fine_tune, prompts="a lake", seeds="0-1", num_inference_steps=1, drift=drifts, clip=None)
    writer = ImageWriter(str(tmp_path), contact_sheet=False)
    trainer(callbacks=[writer]).predict(SweepDreamer(), datamodule=data, return_predictions=False)
    rows = [*csv.DictReader((tmp_path / "index.csv").read_text(encoding="utf-8").splitlines())]
    assert [row["drift"] for row in rows[::2]] == ["0", "1", HALF, "unet=0.5,text_encoder=1"]
    assert len({row["file"] for row in rows}) == 8
    row = next(row for row in rows if row["drift"] == HALF)
    (expected,) = dream(at(fine_tune, PartDrifts(1.0, 0.5)), ["a lake"], [0], Sampling(num_inference_steps=1))
    shown = np.asarray(Image.open(tmp_path / row["file"]), int)
    assert np.abs(shown - np.asarray(expected, int)).max() <= 1  # other pictures are sampled beside it
    assert f"| {HALF} | 2 | " in (tmp_path / "tables.md").read_text()
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["sweep_seed-by-drift.png"]
    assert HALF in (tmp_path / "sweep.html").read_text()


def test_a_grids_row_has_it(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    grid = SeedGrid("1", {"a": {"prompts": "x", "seeds": 0}}, num_inference_steps=1, drift_dial=f"1,{HALF}")
    saver = StepCheckpoint("1", last_every_n_steps=0, dirpath=str(tmp_path))
    module = DreamBooth(tiny_sd, learning_rate=1e-2)
    trainer(max_steps=1, callbacks=[grid, saver]).fit(module, datamodule=Latents())
    (row,) = tmp_path.rglob("dial_step=00001.png")
    with Image.open(row) as sheet:
        assert sheet.width > 2 * sheet.height / 2
    trained = load_stable_diffusion(str(tmp_path / "step=00001.ckpt"))
    assert all(
        torch.equal(tensor, module.state_dict()[f"{part}.{name}"])
        for part in TRAINED
        for name, tensor in getattr(trained, part).named_parameters()
    )


def test_an_export_names_it_and_holds_it(
    fine_tune: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(["export", f"--ckpt_path={fine_tune}", "--to=out", f"--drift={HALF}"])
    assert status == 0, capsys.readouterr().err
    (path,) = (tmp_path / "out").glob("*.safetensors")
    assert path.name == "step-01200-drift-unet1-text_encoder0.5.safetensors"
    written, exact = load_stable_diffusion(str(path)), at(fine_tune, PartDrifts(1.0, 0.5))
    assert written.recipe is not None
    assert written.recipe["drift"] == HALF
    for part in TRAINED:
        theirs = dict(getattr(exact, part).named_parameters())
        assert all(
            torch.equal(tensor, theirs[name].half().float())
            for name, tensor in getattr(written, part).named_parameters()
        )
    card = path.with_name(f"{path.stem}.README.md").read_text()
    assert "its drift dialled to unet 1, text encoder 0.5" in card
    again = interpolated(open_pipeline(str(path)), base_of(open_pipeline(fine_tune)), PartDrifts(0.5, 1.0))
    assert again.recipe is not None
    assert again.recipe["drift"] == 0.5


@pytest.mark.parametrize("drift", ["unet=1", "unet=x,text_encoder=1", "unet=100,text_encoder=1", [1], True])
def test_a_recipe_with_another_drift_is_damaged(fine_tune: str, tmp_path: Path, drift: Any) -> None:
    content = torch.load(fine_tune, weights_only=True)
    content["recipe"]["drift"] = drift
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt is damaged: the drift of its recipe is"):
        open_pipeline(str(tmp_path / "a.ckpt"))
