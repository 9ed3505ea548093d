"""Base and fine-tune denoise together: both ends to the bit, the formula between, maps; predict and fits."""

import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.fits import fit_checkpoint
from helpers.grids import GridHistory
from helpers.paths import DATA
from helpers.stand_ins import Latents
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.dreams.dreamer import Dreamer, Prompts
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.overlay import INK, read_overlay
from lightning_drift.stable_diffusion.autoencoder import decode_latent
from lightning_drift.stable_diffusion.interpolation import base_of, load_base_beside
from lightning_drift.stable_diffusion.loading import (
    StableDiffusion,
    load_opened,
    open_pipeline,
)
from lightning_drift.stable_diffusion.prompt_states import encode_prompts
from lightning_drift.stable_diffusion.sampling import (
    DRIFT_MAP,
    Sampling,
    ddim,
    dream,
    predict_noise,
    starting_noise,
)
from lightning_drift.stable_diffusion.sampling_drift import (
    over_steps,
    read_sampling_drift,
    read_sampling_drifts,
    sampling_title,
)
from lightning_drift.stable_diffusion.with_base import WithBase, drift_map, mapped_steps, predictions

PROMPTS, SEEDS = ["a lake", "a red tower"], [0, 3]
SAMPLING = Sampling(num_inference_steps=4)


def moved(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """A fine-tune's change, visible in every picture."""
    return tensor + 0.2 * tensor.std() * torch.randn(tensor.shape, generator=generator(0, key))


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory: Any) -> Path:
    """A checkpoint of the random pipeline."""
    folder = tmp_path_factory.mktemp("tuned")
    return fit_checkpoint(folder / "step=00003.ckpt", str(DATA / "tiny_sd"), moved)


@pytest.fixture(scope="module")
def models(fine_tune: Path) -> tuple[StableDiffusion, StableDiffusion]:
    """The fine-tune, and its base to lie beside it."""
    opened = open_pipeline(str(fine_tune))
    tuned = load_opened(opened)
    return tuned, load_base_beside(tuned, opened, base_of(opened))


def pixels(image: Image.Image) -> Any:
    return np.asarray(image, int)


# -- values --


def test_a_schedule_says_what_holds_at_each_step() -> None:
    late = read_sampling_drift("0/1@0.4", "x")
    assert over_steps(late, 5) == [0, 0, 1, 1, 1]
    assert over_steps(late, 50) == [0] * 20 + [1] * 30
    assert over_steps(read_sampling_drift("1/0.5@0.25/0@0.5", "x"), 8) == [1, 1, 0.5, 0.5, 0, 0, 0, 0]
    assert over_steps(read_sampling_drift("1..0", "x"), 5) == [1, 0.75, 0.5, 0.25, 0]
    assert over_steps(read_sampling_drift("0..1", "x"), 1) == [0]
    assert over_steps(0.7, 2) == [0.7, 0.7]


@pytest.mark.parametrize("text", ["0.7", "0/1@0.4", "1/0.5@0.25/0@0.75", "0..1", "1.5..0.5"])
def test_its_text_reads_back_as_itself(text: str) -> None:
    value = read_sampling_drift(text, "x")
    assert f"{value:g}" == text
    assert read_sampling_drift(value, "x") == value


def test_a_schedule_of_one_value_is_a_number() -> None:
    assert read_sampling_drifts("1, 1..1, 1/1@0.5, 0/1@0.4,0..1", "x") == [
        1.0,
        read_sampling_drift("0/1@0.4", "x"),
        read_sampling_drift("0..1", "x"),
    ]
    assert read_sampling_drifts([0.5, "0/1@0.2"], "x") == [0.5, read_sampling_drift("0/1@0.2", "x")]
    titles = [sampling_title(read_sampling_drift(text, "x")) for text in ("0.7", "0/1@0.4", "0..1")]
    assert titles == ["0.7", "0, 1 from 40 %", "0 to 1"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (3.5, r"x: 3\.5 is out of range; give 0 \(the base's prediction\) to 3"),
        ("0/4@0.5", "x: 4 is out of range"),
        ("0/1", "x: in '0/1' each value after the first needs the part of the steps"),
        ("0/1@0.6/2@0.6", "needs the part of the steps from which it holds, between 0 and 1 and ascending"),
        ("0/1@1", "between 0 and 1"),
        ("0/1@nan", "between 0 and 1"),
        ("half", "x: 'half' is no sampling drift; give 0.7, 0/1@0.4"),
        ("0..1..2", r"x: '0\.\.1\.\.2' is no sampling drift"),
        ("0..", r"is no sampling drift"),
        ("", "is no sampling drift"),
        (float("nan"), "x: nan is out of range"),
        (True, "x: "),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_sampling_drift(value, "x")


def test_an_empty_list_is_refused() -> None:
    for empty in ("", " , ", []):
        with pytest.raises(UserError, match="the list is empty"):
            read_sampling_drifts(empty, "x")


# -- pictures --


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("maps", [False, True])
def test_the_ends_are_base_and_fine_tune_to_the_bit(models: Any, guidance: float, maps: bool) -> None:
    tuned, base = models
    sampling = Sampling(num_inference_steps=4, guidance_scale=guidance)
    for drift, alone in ((0.0, base), (1.0, tuned)):
        expected = dream(alone, PROMPTS, SEEDS, sampling)
        found = dream(tuned, PROMPTS, SEEDS, sampling, beside=WithBase(base, drift, maps))
        for image, other in zip(found, expected, strict=True):
            assert image.tobytes() == other.tobytes()
            assert (DRIFT_MAP in image.info) is maps
    assert (
        dream(tuned, PROMPTS, SEEDS, sampling)[0].tobytes()
        != dream(base, PROMPTS, SEEDS, sampling)[0].tobytes()
    )


@pytest.mark.parametrize("text", ["0.6", "2", "0/1@0.5", "0..1"])
def test_between_it_is_the_formula(models: Any, text: str) -> None:
    """e0 + a (e - e0), step by step, with each model's own text encoder."""
    tuned, base = models
    drift = read_sampling_drift(text, "x")
    scheduler, scale = ddim(tuned.scheduler_config), torch.full((1, 1, 1, 1), 3.0)
    scheduler.set_timesteps(4)
    latents = starting_noise(3, (1, 4, 8, 8))
    with torch.no_grad():
        states = [encode_prompts(model, ["", "a lake"]) for model in (tuned, base)]
        for a, timestep in zip(over_steps(drift, 4), scheduler.timesteps, strict=True):
            e, e0 = (
                predict_noise(model, latents, timestep, each, scale)
                for model, each in zip((tuned, base), states, strict=True)
            )
            latents = scheduler.step(e0 + a * (e - e0), timestep, latents, return_dict=False)[0]
        expected = decode_latent(tuned, latents[0])
    (found,) = dream(tuned, ["a lake"], [3], SAMPLING, beside=WithBase(base, drift))
    assert np.abs(pixels(found) - pixels(expected)).max() <= 1


def test_a_late_switch_keeps_the_base_and_an_early_one_the_fine_tune(models: Any) -> None:
    """The earlier the fine-tune takes over, the farther the picture is from the base's."""
    tuned, base = models
    sampling = Sampling(num_inference_steps=10)
    before = pixels(dream(base, ["a lake"], [0], sampling)[0])

    def apart(text: str) -> float:
        beside = WithBase(base, read_sampling_drift(text, "x"))
        return float(
            np.abs(pixels(dream(tuned, ["a lake"], [0], sampling, beside=beside)[0]) - before).mean()
        )

    distances = [apart(text) for text in ("0", "0/1@0.8", "0/1@0.4", "1")]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[1] > 0


@pytest.mark.parametrize(
    ("text", "maps", "own", "others"),
    [
        ("1", False, 12, 0),
        ("0", False, 0, 12),
        ("0.5", True, 12, 12),
        ("0/1@0.5", False, 6, 6),
        ("1", True, 12, 10),
    ],
)
def test_each_network_is_asked_as_often_as_a_plan_says(
    models: Any, text: str, maps: bool, own: int, others: int
) -> None:
    tuned, base = models
    drift, counts = read_sampling_drift(text, "x"), [0, 0]

    def count(place: int) -> Any:
        def hook(*_: Any) -> None:
            counts[place] += 1

        return hook

    hooks = [model.unet.register_forward_hook(count(place)) for place, model in enumerate((tuned, base))]
    dream(tuned, ["a lake"], [0], Sampling(num_inference_steps=12), beside=WithBase(base, drift, maps))
    for hook in hooks:
        hook.remove()
    assert counts == [own, others]
    assert sum(counts) == predictions(drift, 12, maps)


# -- maps --


def test_a_map_shows_where_the_two_differ(models: Any) -> None:
    tuned, base = models
    (image,) = dream(tuned, ["a lake"], [0], SAMPLING, beside=WithBase(base, maps=True))
    found = image.info[DRIFT_MAP]
    assert (found.mode, found.size) == ("RGBA", image.size)
    # A difference in one corner of the latent is seen in that corner alone.
    difference = torch.zeros(8, 8)
    difference[0, 7] = 2.0
    opacity = np.asarray(drift_map(difference, (64, 64)).getchannel("A"), int)
    assert opacity[:8, 56:].mean() > 100
    assert opacity[16:, :].max() == opacity[:, :48].max() == 0
    # Where nothing differs, nothing is shown.
    assert np.asarray(drift_map(torch.zeros(8, 8), (16, 16)).getchannel("A")).max() == 0
    assert np.asarray(drift_map(torch.ones(8, 8), (16, 16)).getchannel("A")).max() == 0


def test_a_map_is_of_ten_steps_at_most() -> None:
    for steps in (1, 2, 9, 10, 11, 50, 1000):
        found = mapped_steps(steps)
        assert len(found) == min(10, steps)
        assert {0, steps - 1} <= found


def test_its_file_reads_back_and_a_foreign_one_is_still_a_map(tmp_path: Path) -> None:
    ramp = drift_map(torch.arange(64.0).view(8, 8), (64, 64))
    ramp.save(tmp_path / "map.png")
    again = read_overlay(tmp_path / "map.png")
    assert np.abs(pixels(again) - pixels(ramp)).max() <= 1
    Image.new("L", (32, 32), 90).save(tmp_path / "grey.png")
    assert read_overlay(tmp_path / "grey.png").getpixel((0, 0)) == (*INK, 90)


# -- predict --


def predict(trainer: Any, folder: Path, **options: Any) -> ImageWriter:
    writer = ImageWriter(str(folder))
    dreamer = Dreamer(num_inference_steps=4, **options)
    trainer(callbacks=[writer]).predict(
        dreamer, datamodule=Prompts("a lake", "0-1"), return_predictions=False
    )
    return writer


def test_predict_dreams_beside_the_base_and_says_so(
    models: Any, fine_tune: Path, trainer: Any, tmp_path: Path
) -> None:
    tuned, base = models
    plain = predict(trainer, tmp_path, pipeline=str(fine_tune))
    mixed = predict(trainer, tmp_path, pipeline=str(fine_tune), sampling_drift="0/1@0.5")
    assert len(plain.written) == len(mixed.written) == 2
    assert not {*plain.written} & {*mixed.written}
    texts = [Image.open(path).text["parameters"] for path in (plain.written[0], mixed.written[0])]
    assert "rift" not in texts[0]
    assert re.search(r", Sampling drift: 0/1@0\.5, Drift base hash: [0-9a-f]{10}$", texts[1])
    beside = WithBase(base, read_sampling_drift("0/1@0.5", "x"))
    expected = dream(tuned, ["a lake", "a lake"], [0, 1], SAMPLING, beside=beside)
    for path, image in zip(mixed.written, expected, strict=True):
        assert Image.open(path).tobytes() == image.tobytes()
    assert len(predict(trainer, tmp_path, pipeline=str(fine_tune), sampling_drift="0/1@0.5").skipped) == 2
    both = predict(trainer, tmp_path, pipeline=str(fine_tune), drift=0.5, sampling_drift=0.5)
    assert (
        ", Drift: 0.5, Sampling drift: 0.5, Drift base hash: "
        in Image.open(both.written[0]).text["parameters"]
    )


def test_maps_lie_beside_their_pictures_and_are_made_again_alone(
    fine_tune: Path, trainer: Any, tmp_path: Path
) -> None:
    plain = predict(trainer, tmp_path / "plain", pipeline=str(fine_tune))
    folder = tmp_path / "mapped"
    first = predict(trainer, folder, pipeline=str(fine_tune), drift_map=True)
    names = {f"a-lake_seed000{seed}{kind}.png" for seed in (0, 1) for kind in ("", "_map")}
    assert {path.name for path in folder.iterdir()} == names | {"contact_sheet.png"}
    for path, other in zip(first.written, plain.written, strict=True):  # the picture is the one without a map
        assert path.read_bytes() == other.read_bytes()
    drawn = folder / "a-lake_seed0001_map.png"
    whole, stamps = drawn.read_bytes(), [path.stat().st_mtime_ns for path in first.written]
    drawn.unlink()
    second = predict(trainer, folder, pipeline=str(fine_tune), drift_map=True)
    assert (second.written, len(second.skipped)) == ([], 1)
    assert drawn.read_bytes() == whole
    assert [path.stat().st_mtime_ns for path in first.written] == stamps


def test_a_model_without_a_base_cannot_be_dreamed_beside_it(tiny_sd: str) -> None:
    for options in ({"sampling_drift": 0.5}, {"drift_map": True}):
        with pytest.raises(UserError, match="does not say which model it was fine-tuned from"):
            Dreamer(tiny_sd, **options).configure_model()
    with pytest.raises(UserError, match=r"model\.sampling_drift: 9 is out of range"):
        Dreamer(tiny_sd, sampling_drift=9)


# -- fits --

ROW = {
    "dream": {"prompts": ["a tree, a moon", "a lake"], "seeds": "3,5"},
    "other": {"prompts": "a house", "seeds": "0", "num_inference_steps": 1},
}


def half_precision() -> list[Any]:
    return [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1.0))]


def fitted(
    base: str, trainer: Any, folder: Path, grid: SeedGrid, **options: Any
) -> tuple[DreamBooth, GridHistory]:
    history = GridHistory()
    grid.listeners.append(history)
    module = DreamBooth(base, learning_rate=1e-3, **options)
    logger = TensorBoardLogger(folder, name="s", version="r", default_hp_metric=False)
    settings = {} if options.get("memory", "full") == "full" else {"plugins": half_precision()}
    trainer(max_steps=2, callbacks=[grid], logger=logger, **settings).fit(module, datamodule=Latents())
    return module, history


def test_a_fit_shows_row_and_maps_and_changes_no_bit(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": "0,1,2", "groups": ROW, "num_inference_steps": 2}
    grid = SeedGrid(**settings, sampling_drift="0,0.5,1,0/1@0.5", drift_map=True)
    module, history = fitted(tiny_sd, trainer, tmp_path / "a", grid)
    alone, plain = fitted(tiny_sd, trainer, tmp_path / "b", SeedGrid(**settings))
    for part in ("unet", "text_encoder"):
        for one, other in zip(
            getattr(module, part).parameters(), getattr(alone, part).parameters(), strict=True
        ):
            assert torch.equal(one, other)
    for step, images in plain.images.items():
        assert all(image.tobytes() == history.images[step][key].tobytes() for key, image in images.items())
    grids = tmp_path / "a" / "s" / "r" / "grids"
    assert [path.name for path in sorted(grids.glob("sampling*"))] == [
        "sampling_step=00001.png",
        "sampling_step=00002.png",
    ]
    maps = {path.parent.name: set() for path in grids.glob("*/*.png")}
    for path in grids.glob("*/*_map.png"):
        maps[path.parent.name].add(path.name.removesuffix("_map.png"))
        with Image.open(path) as image:
            assert image.mode == "RGBA"
    firsts = {f"{name}_seed000{seed}" for name in ("a-tree-a-moon", "a-lake") for seed in (3, 5)}
    assert maps == {"step=00000": set(), "step=00001": firsts, "step=00002": firsts}
    events = EventAccumulator(str(tmp_path / "a" / "s" / "r"), size_guidance={"images": 0})
    events.Reload()
    assert [event.step for event in events.Images("map/a-lake")] == [1, 2]
    assert "map/a-house" not in events.Tags()["images"]
    event = events.Images("sampling/a-tree-a-moon")[-1]
    assert (event.step, event.width, event.height) == (2, 4 * 64, 64)
    row = pixels(Image.open(BytesIO(event.encoded_image_string)).convert("RGB"))
    base, _, own, _ = (row[:, 64 * place : 64 * (place + 1)] for place in range(4))
    assert np.array_equal(base, pixels(history.images[0]["a tree, a moon", 3]))
    assert np.array_equal(own, pixels(history.images[2]["a tree, a moon", 3]))


@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_every_memory_mode_has_the_base_in_its_own_precision(
    tiny_sd: str, trainer: Any, tmp_path: Path, memory: str
) -> None:
    grid = SeedGrid("0,2", {"dream": ROW["dream"]}, num_inference_steps=2, sampling_drift="0,1")
    _, history = fitted(tiny_sd, trainer, tmp_path, grid, memory=memory)
    events = EventAccumulator(str(tmp_path / "s" / "r"), size_guidance={"images": 0})
    events.Reload()
    (event,) = events.Images("sampling/a-tree-a-moon")
    row = pixels(Image.open(BytesIO(event.encoded_image_string)).convert("RGB"))
    base, own = row[:, :64], row[:, 64:]
    assert np.array_equal(base, pixels(history.images[0]["a tree, a moon", 3]))
    assert np.array_equal(own, pixels(history.images[2]["a tree, a moon", 3]))
    assert not np.array_equal(base, own)


def test_a_base_that_is_gone_costs_row_and_maps_and_not_the_run(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    copy = tmp_path / "base"
    shutil.copytree(tiny_sd, copy)

    class Remove(SeedGrid):
        def on_fit_start(self, *args: Any) -> None:
            shutil.rmtree(copy)

    grid = Remove("1", ROW, num_inference_steps=1, sampling_drift="0.5", drift_map=True)
    _, history = fitted(str(copy), trainer, tmp_path / "fit", grid)
    assert [*history.images] == [1]
    assert len(history.images[1]) == 5
    said = capsys.readouterr().err
    assert "cannot make the base beside the model at step 1: no such model" in said
    assert not [*(tmp_path / "fit").rglob("*_map.png"), *(tmp_path / "fit").rglob("sampling_*")]


def test_the_plan_counts_the_base_beside(tiny_sd: str) -> None:
    plain = SeedGrid("0,2", ROW, num_inference_steps=20)
    more = SeedGrid("0,2", ROW, num_inference_steps=20, sampling_drift="0.5,0/1@0.5", drift_map=True)
    assert (plain.predictions, plain.count) == (4 * 20 + 1, 5)
    assert (more.predictions, more.count) == (4 * 20 + 1 + 40 + 20 + 4 * 10, 7)


def test_the_name_of_the_row_is_taken() -> None:
    with pytest.raises(UserError, match=r"seed_grid\.groups: the name sampling is that of a row of drifts"):
        SeedGrid(sampling_drift="0.5", groups={"sampling": {"prompts": "x", "seeds": 0}})
    with pytest.raises(UserError, match=r"seed_grid\.sampling_drift: 5 is out of range"):
        SeedGrid(sampling_drift="0.5,5")
