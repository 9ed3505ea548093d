"""ClipDrift: what is measured of a fit, when, against what, and where it is written."""

import json
import math
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.bits import assert_same_bits, tensors
from helpers.full_memory import full_above
from helpers.paths import DATA
from helpers.stand_ins import Latents
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from lightning_drift.common.errors import UserError
from lightning_drift.drift.base import DriftBase
from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator
from lightning_drift.drift.clip_drift import ClipDrift
from lightning_drift.drift.log import COMPARED, charts
from lightning_drift.drift.measures.frozen_clip import FrozenClip
from lightning_drift.drift.measures.language_probe import FORWARDS, probe, relative, trials
from lightning_drift.drift.measures.loss_curve import KINDS
from lightning_drift.drift.measures.noise_levels import NOISE_LEVELS, level_tag
from lightning_drift.drift.measures.text_similarity import similarity, structure
from lightning_drift.drift.metric import MEASURES, WITHOUT_CLIP
from lightning_drift.drift.probes import find_probes, instance_photos
from lightning_drift.drift.verdict import WITH_MODEL, ZONES, Thresholds
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpointing import AtomicCheckpointIO, StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.stable_diffusion.autoencoder import encode_pictures
from lightning_drift.stable_diffusion.loading import load_stable_diffusion, open_pipeline

LANGUAGE = ["a desert at dusk", "a forest in snow", "a red house by the sea at night"]
CURVES = {kind: [f"loss_{kind}", *(level_tag(kind, level) for level in NOISE_LEVELS)] for kind in KINDS}
"""Tags of the loss curves."""

GROUPS = {
    "dream": {"prompts": "monumental, dramatic", "seeds": "0-1"},
    "language": {"prompts": LANGUAGE, "seeds": "0-1"},
    "subject": {"prompts": "a photo of sks cup", "seeds": "0"},
}


class Fit:
    """A short fit on bundled photos, its drift measured by the pocket's CLIP."""

    def __init__(
        self,
        pipeline: str,
        trainer: Any,
        folder: Path,
        steps: int = 4,
        resume: Path | None = None,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.grid = SeedGrid(
            options.pop("grid_steps", "0,2,4"),
            GROUPS,
            num_inference_steps=2,
            batch_size=8,
            **options.pop("grid", {}),
        )
        self.save = StepCheckpoint(
            options.pop("save", "2"),
            last_every_n_steps=1,
            keep=options.pop("keep", None),
            dirpath=str(folder / "ckpt"),
        )
        self.module = DreamBooth(
            pipeline,
            instance_prompt="a photo of sks cup",
            learning_rate=options.pop("rate", 1e-4),
            weight_change_every_n_steps=3,
        )
        data = options.pop("data") if "data" in options else InstanceImages("coffee", cache_dir=None)
        validate = options.pop("validate", False)
        drift = {"clip": "pocket", "cache_dir": None, "text_every_n_steps": 3} | options.pop("drift", {})
        self.drift = ClipDrift(**drift)
        self.logger = TensorBoardLogger(folder, name="s", version="r", default_hp_metric=False)
        # Before the seed grid on purpose: the order does not matter.
        callbacks: list[Callback] = [self.save, self.drift, self.grid]
        if options.pop("grid_first", False):
            callbacks.reverse()
        if options.pop("without", False):
            callbacks.remove(self.drift)
        self.trainer = trainer(
            max_steps=steps,
            callbacks=callbacks,
            logger=False if validate else self.logger,
            default_root_dir=folder / "s" / "r",
            **options,
        )
        if validate:
            self.trainer.validate(self.module, datamodule=data, ckpt_path=resume)
        else:
            self.trainer.fit(self.module, datamodule=data, ckpt_path=resume)

    @property
    def run(self) -> Path:
        return self.folder / "s" / "r"

    def json(self, step: int) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run / "drift" / f"step={step:05d}.json").read_text())
        return content

    @property
    def events(self) -> EventAccumulator:
        events = EventAccumulator(str(self.run), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        return events

    def scalars(self) -> dict[str, dict[int, float]]:
        events = self.events
        return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}

    def texts(self) -> dict[int, str]:
        return {
            event.step: make_ndarray(event.tensor_proto).item().decode()
            for event in self.events.Tensors("drift/verdict/text_summary")
        }

    @property
    def last(self) -> Path:
        return self.folder / "ckpt" / "last.ckpt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> Fit:
    def make(**settings: Any) -> Any:
        quiet = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": -1,
            "gradient_clip_val": 1.0,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "num_sanity_val_steps": 0,
            "plugins": [AtomicCheckpointIO()],
        }
        return Trainer(**(quiet | settings))

    return Fit(str(DATA / "tiny_sd"), make, tmp_path_factory.mktemp("whole"))


# -- what is measured --------------------------------------------------------------------------------------


def test_the_base_model_is_exactly_itself(whole: Fit) -> None:
    base = whole.json(0)
    values = {name: interval["value"] for name, interval in base["measures"].items()}
    assert set(values) == {*MEASURES, *WITH_MODEL}
    assert base["measures"]["photo_loss"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    same = dict.fromkeys(("drift", "drift_prompt", "tilt", "pull", "aim", "colour", "delta_e", "copy"), 0.0)
    same |= dict.fromkeys(("adherence", "spread", "diversity", "vendi"), 1.0)
    assert {name: values[name] for name in same} == same
    assert base["explaining"].pop("dc_accuracy") in (
        0.0,
        *(i / 13 for i in range(1, 14)),
        *(i / 10 for i in range(11)),
    )
    neutral = dict.fromkeys(("text", "text_structure", "guidance", "sensitivity", *CURVES["trained"]), 1.0)
    neutral |= {
        "texture": 1.0,
        "updates": 1.0,
        "prompt_force": 1.0,
        "departure": 0.0,
        "departure_language": 0.0,
    }
    assert base["explaining"] == neutral
    assert set(base["weights"].values()) == {0.0}
    assert (base["step"], base["zone"], base["position"], base["clip"]) == (0, "under-drifted", 0.0, "pocket")


def test_a_milestone_reads_the_seed_grids_pictures_of_that_step(whole: Fit) -> None:
    # Whatever the order of the configuration, and the pictures of the subject are not measured.
    for step in (2, 4):
        reading = whole.json(step)
        assert reading["step"] == step
        assert reading["measures"]["drift"]["value"] > 0
        assert reading["measures"]["tilt"]["value"] > 0
        assert reading["explaining"]["text"] < 1
        assert 0 < reading["weights"]["unet"] < 1
        assert reading["zone"] in ZONES
        assert reading["measures"]["photo_loss"]["value"] < 1  # a fit is better at its photos
        for interval in reading["measures"].values():
            assert interval["low"] <= interval["value"] <= interval["high"]
    assert whole.json(4)["weights"]["unet"] > whole.json(2)["weights"]["unet"]
    assert whole.drift.reading is not None
    assert whole.drift.reading.step == 4
    assert {prompt for prompt, _ in whole.drift.evaluator.probes.keys} == {"monumental, dramatic", *LANGUAGE}  # type: ignore[union-attr]


def test_everything_goes_to_one_event_file(whole: Fit) -> None:
    assert len(list(whole.run.glob("events*"))) == 1
    scalars = whole.scalars()
    for name in (*MEASURES, *WITH_MODEL):
        readings = {step: whole.json(step)["measures"][name] for step in (0, 2, 4)}
        for part, prefix in (("value", "drift"), ("low", "drift_low"), ("high", "drift_high")):
            expected = {step: pytest.approx(reading[part], rel=1e-6) for step, reading in readings.items()}
            assert scalars[f"{prefix}/{name}"] == expected
    for step in (0, 2, 4):
        reading = whole.json(step)
        assert scalars["drift/position"].get(step) == pytest.approx(reading["position"])
        assert ZONES[int(scalars["drift/zone"][step])] == reading["zone"]
        border = int(scalars["drift/borderline"][step])
        assert (None if border == -1 else ZONES[border]) == reading["borderline"]
        text = whole.texts()[step]
        assert text.startswith(f"**{reading['zone']}**")
        place = "" if reading["position"] is None else f", {reading['position']:.0f} of 100"
        assert f"{place}. {reading['reason']}" in text
    assert set(scalars["drift/text"]) == {0, 2, 3, 4}  # every three steps and at milestones
    assert all(set(scalars[f"drift/{name}"]) == {0, 2, 4} for name in ("guidance", "texture", "updates"))
    assert set(scalars["drift/departure"]) == {0, 2, 4}  # no loss curve is asked for between them
    assert set(scalars["drift/weights/unet"]) == {3}  # the module's own, not logged twice


def test_runs_compare_in_one_table_and_the_charts_show_what_is_logged(whole: Fit) -> None:
    events = whole.events
    hparams = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(content)
        for tag, content in events.PluginTagToContent("hparams").items()
    }
    start = hparams["_hparams_/session_start_info"].session_start_info.hparams
    assert start["learning_rate"].number_value == pytest.approx(1e-4)
    assert start["max_steps"].number_value == 4
    assert start["photos"].string_value == "coffee"
    # TensorBoard opens on the first five settings that are said to differ, and the first five results.
    experiment = hparams["_hparams_/experiment"].experiment
    opened = sorted(info.name for info in experiment.hparam_infos if info.differs)
    assert opened == ["learning_rate", "max_steps", "photos", "seed", "train_text_encoder_steps"]
    assert [info.name.tag for info in experiment.metric_infos][:2] == ["drift/position", "drift/zone"]
    columns = {info.name.tag for info in hparams["_hparams_/experiment"].experiment.metric_infos}
    assert columns == {f"drift/{name}" for name in COMPARED}
    scalars = whole.scalars()
    assert columns <= set(scalars)
    layout = layout_pb2.Layout.FromString(
        events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    drawn = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    for category in layout.category:
        for chart in category.chart:
            drawn += [t for series in chart.margin.series for t in (series.value, series.lower, series.upper)]
    assert len(drawn) > 60
    assert {tag.removesuffix("$") for tag in drawn} <= set(scalars)
    assert sum(len(group) for group in charts().values()) == sum(len(c.chart) for c in layout.category)


def test_training_is_the_same_with_and_without(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit
) -> None:
    before = torch.random.get_rng_state()
    without = Fit(tiny_sd, trainer, tmp_path / "a", without=True)
    assert_same_bits(read_checkpoint(whole.last), read_checkpoint(without.last))
    drifting = Fit(tiny_sd, trainer, tmp_path / "b", steps=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert drifting.module.unet.training
    assert drifting.module.text_encoder.training
    assert not drifting.module.stable_diffusion.vae.training  # type: ignore[union-attr]


def test_the_order_of_the_callbacks_does_not_matter(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    # With accumulation, a text measure at every step, a resume amid milestones, and a validate run.
    logs: list[Any] = []
    for grid_first in (False, True):
        folder = tmp_path / str(grid_first)
        options: dict[str, Any] = {"grid_first": grid_first, "drift": {"text_every_n_steps": 1}}
        first = Fit(tiny_sd, trainer, folder, steps=3, accumulate_grad_batches=2, **options)
        fit = Fit(tiny_sd, trainer, folder, steps=4, accumulate_grad_batches=2, resume=first.last, **options)
        events = fit.events
        scalars = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
            if tag.startswith("drift")
        }
        assert [step for step, _ in scalars["drift/text"]] == [0, 1, 2, 3, 4]  # each once
        assert [step for step, _ in scalars["drift/zone"]] == [0, 2, 4]
        again = Fit(tiny_sd, trainer, folder / "again", resume=fit.last, validate=True, **options)
        written = json.loads((again.run / "validate" / "step=00004" / "drift.json").read_text())
        assert written == fit.json(4)
        state = read_checkpoint(fit.last)["callbacks"]["ClipDrift"]
        logs.append(
            (scalars, [fit.json(step) for step in (0, 2, 4)], state["zones"], state["base"]["settings"])
        )
    assert logs[0] == logs[1]


# -- held-out photos ---------------------------------------------------------------------------------------


def test_held_out_photos_are_measured_and_change_nothing(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    def fit(name: str, **options: Any) -> Fit:
        data = InstanceImages("coffee", cache_dir=None, held_out=options.pop("held_out", 2))
        drift = {"loss_every_n_steps": 1, "text_every_n_steps": 0}
        options = {"grid_steps": "0,4", "drift": drift, "data": data} | options
        return Fit(tiny_sd, trainer, tmp_path / name, **options)

    whole = fit("whole")
    scalars = whole.scalars()
    for tag in CURVES["held_out"]:
        assert set(scalars[f"drift/{tag}"]) == {0, 1, 2, 3, 4}
    for tag in (*CURVES["trained"], "memorising", "departure"):
        assert set(scalars[f"drift/{tag}"]) == {0, 2, 4}  # every second time, and at milestones
    assert all(scalars[f"drift/{tag}"][0] == 1 for kind in KINDS for tag in (*CURVES[kind], "memorising"))
    assert scalars["drift/memorising"][4] == pytest.approx(
        scalars["drift/loss_held_out"][4] / scalars["drift/loss_trained"][4]
    )
    assert whole.json(0)["measures"]["held_out_loss"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert whole.json(4)["measures"]["held_out_loss"]["value"] == pytest.approx(
        scalars["drift/held_out_loss"][4]
    )
    tags = {
        tag.removesuffix("$")
        for charts_of in charts(held_out=True).values()
        for kind, drawn in charts_of.values()
        for tag in drawn
        if kind == "Multiline"
    }
    assert tags - set(scalars) <= {f"drift/weights/{part}" for part in ("unet", "text_encoder")}

    without = fit("without", without=True)
    assert_same_bits(read_checkpoint(whole.last), read_checkpoint(without.last))
    resumed = fit("resumed", resume=whole.folder / "ckpt" / "step=00002.ckpt")
    assert_same_bits(read_checkpoint(whole.last), read_checkpoint(resumed.last))
    again = resumed.scalars()
    for tag in (
        *CURVES["trained"],
        *CURVES["held_out"],
        "memorising",
        "departure",
        "prompt_force",
        "updates",
    ):
        later = {step: value for step, value in scalars[f"drift/{tag}"].items() if step > 2}
        assert again[f"drift/{tag}"] == later
    assert resumed.json(4) == whole.json(4)
    ours, theirs = (
        tensors(read_checkpoint(each.last)["callbacks"]["ClipDrift"]) for each in (whole, resumed)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- resuming ----------------------------------------------------------------------------------------------


def test_a_resumed_run_compares_with_the_same_base(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit, capsys: Any
) -> None:
    first = Fit(tiny_sd, trainer, tmp_path, steps=3)
    before = {tag: dict(points) for tag, points in first.scalars().items()}
    content = read_checkpoint(first.last)["callbacks"]["ClipDrift"]
    capsys.readouterr()
    resumed = Fit(tiny_sd, trainer, tmp_path, steps=4, resume=first.last)
    assert "clip_drift" not in capsys.readouterr().err
    assert resumed.json(4) == whole.json(4)
    ours, theirs = (read_checkpoint(fit.last)["callbacks"]["ClipDrift"] for fit in (whole, resumed))
    for state in (theirs, content):
        kept, wanted = tensors(state), tensors(ours)
        assert kept.keys() == wanted.keys()
        assert all(torch.equal(kept[name], wanted[name]) for name in kept)
        assert state["base"]["settings"] == ours["base"]["settings"]
    assert theirs["zones"] == ours["zones"]
    assert before["drift/tilt"].keys() == {0, 2}
    assert resumed.scalars()["drift/tilt"] == whole.scalars()["drift/tilt"]


def test_another_way_of_rendering_is_no_match_for_the_base(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit, capsys: Any
) -> None:
    resumed = Fit(
        tiny_sd, trainer, tmp_path, steps=5, grid_steps="0,5", resume=whole.last, grid={"guidance_scale": 5.0}
    )
    said = capsys.readouterr().err
    assert (
        "pictures are missing, because the checkpoint's were made with another seed_grid.guidance_scale"
        in said
    )
    assert not (resumed.run / "drift").exists()
    # What the checkpoint held goes on into the next one.
    assert (
        read_checkpoint(resumed.last)["callbacks"]["ClipDrift"]["base"]["settings"][
            "seed_grid.guidance_scale"
        ]
        == 3.0
    )


def test_a_run_without_step_0_finds_its_base_in_the_cache_or_says_so(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit, capsys: Any
) -> None:
    cache = {"cache_dir": str(tmp_path / "cache")}
    late = Fit(tiny_sd, trainer, tmp_path / "a", steps=2, grid_steps="2", drift=cache)
    said = capsys.readouterr().err
    assert "pictures are missing, because this run began without a grid at step 0" in said
    assert not (late.run / "drift").exists()
    Fit(tiny_sd, trainer, tmp_path / "b", steps=1, grid_steps="0", drift=cache)
    (file,) = (tmp_path / "cache").iterdir()
    capsys.readouterr()
    late = Fit(tiny_sd, trainer, tmp_path / "c", steps=2, grid_steps="2", drift=cache)
    assert "missing" not in capsys.readouterr().err
    assert late.json(2)["measures"] == whole.json(2)["measures"]
    file.write_bytes(b"damaged")
    Fit(tiny_sd, trainer, tmp_path / "d", steps=2, grid_steps="2", drift=cache)
    assert "pictures are missing" in capsys.readouterr().err
    other = Fit(
        tiny_sd, trainer, tmp_path / "e", steps=1, grid_steps="0", drift=cache, grid={"guidance_scale": 4.0}
    )
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert other.json(0)["zone"] == "under-drifted"


def test_other_photos_have_no_base_to_compare_the_loss_with(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit, capsys: Any
) -> None:
    options = {"steps": 5, "grid_steps": "0,5"}
    other = InstanceImages("galaxies", cache_dir=None)
    fit = Fit(tiny_sd, trainer, tmp_path / "other", resume=whole.last, data=other, **options)
    said = capsys.readouterr().err
    assert "loss on the photos is not known, because the checkpoint's was taken with another data" in said
    assert "photo_loss" not in fit.json(5)["measures"]
    assert fit.json(5)["zone"] in ZONES  # by the pictures alone
    assert "photo_base" not in read_checkpoint(fit.last)["callbacks"]["ClipDrift"]
    # One of a version before this measure.
    content = torch.load(whole.last, weights_only=True)
    del content["callbacks"]["ClipDrift"]["photo_base"]
    torch.save(content, tmp_path / "old.ckpt")
    old = Fit(tiny_sd, trainer, tmp_path / "old", resume=tmp_path / "old.ckpt", **options)
    assert "loss on the photos is not known, because the checkpoint holds none" in capsys.readouterr().err
    assert "photo_loss" not in old.json(5)["measures"]


def test_the_loss_on_the_photos_is_measured_in_the_fits_precision(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit
) -> None:
    fit = Fit(tiny_sd, trainer, tmp_path, steps=2, precision="bf16-mixed")
    assert fit.json(0)["measures"]["photo_loss"]["value"] == 1
    exact, rounded = (f.json(2)["measures"]["photo_loss"]["value"] for f in (whole, fit))
    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=0.01)


def test_the_loss_on_the_photos_needs_no_grid_at_step_0_in_this_run(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit
) -> None:
    """The base's pictures may come from the cache, of other photos even; the photos are this run's."""
    cache = {"cache_dir": str(tmp_path / "cache")}
    galaxies = InstanceImages("galaxies", cache_dir=None)
    Fit(tiny_sd, trainer, tmp_path / "a", steps=1, grid_steps="0", drift=cache, data=galaxies)
    late = Fit(tiny_sd, trainer, tmp_path / "b", steps=2, grid_steps="2", drift=cache)
    assert late.json(2)["measures"]["photo_loss"] == whole.json(2)["measures"]["photo_loss"]


def test_a_cache_that_cannot_be_written_costs_a_notice(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "s" / "r").mkdir(parents=True)
    (tmp_path / "s" / "r" / "drift").write_text("in the way")
    fit = Fit(
        tiny_sd, trainer, tmp_path, steps=1, grid_steps="0,1", drift={"cache_dir": str(tmp_path / "file")}
    )
    said = capsys.readouterr().err
    assert "cannot keep the base's statistics in" in said
    assert said.count("cannot write") == 2
    assert set(fit.scalars()["drift/zone"]) == {0, 1}


def test_the_base_survives_disk_and_checkpoint(whole: Fit, tmp_path: Path) -> None:
    state = read_checkpoint(whole.last)["callbacks"]["ClipDrift"]["base"]
    base = DriftBase.from_state(state)
    base.save(tmp_path)
    loaded = DriftBase.load(tmp_path, base.settings)
    assert loaded is not None
    assert loaded.settings == base.settings
    assert loaded.energies == base.energies
    ours, theirs = base.state()["tensors"], loaded.state()["tensors"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert DriftBase.load(tmp_path, base.settings | {"seed_grid.width": 8}) is None
    with pytest.raises(UserError, match="another version"):
        DriftBase.from_state(state | {"settings": {"format": 0}})


# -- validate ----------------------------------------------------------------------------------------------


def test_validate_measures_a_checkpoint_without_photos_and_leaves_the_events_alone(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit, capsys: Any
) -> None:
    events = {path: path.read_bytes() for path in whole.run.glob("events*")}
    gone = InstanceImages("gone", cache_dir=None)
    again = Fit(tiny_sd, trainer, tmp_path, resume=whole.last, validate=True, data=gone)
    assert "step 4: " in capsys.readouterr().out
    path = again.run / "validate" / "step=00004" / "drift.json"
    assert json.loads(path.read_text()) == whole.json(4)
    assert {path: path.read_bytes() for path in whole.run.glob("events*")} == events
    assert not (again.run / "drift").exists()
    assert not list(again.run.glob("events*"))


# -- without a CLIP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip", "why"),
    [
        (None, "no CLIP is given; name one in clip_drift.clip"),
        (
            "someone/some-clip",
            "no CLIP; clip_drift.clip: someone/some-clip is not in the cache and the hub cannot be reached",
        ),
    ],
)
def test_without_a_clip_the_rest_is_measured_and_no_verdict_given(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit, clip: str | None, why: str, capsys: Any
) -> None:
    fit = Fit(tiny_sd, trainer, tmp_path, steps=2, drift={"clip": clip})
    out, err = capsys.readouterr()
    assert f"clip_drift: verdict not available: {why}" in err
    assert "step 2: verdict not available: " in out
    reading = fit.json(2)
    assert set(reading["measures"]) == {*WITHOUT_CLIP, *WITH_MODEL}
    assert (reading["zone"], reading["borderline"], reading["position"], reading["clip"]) == (None,) * 4
    assert why in reading["reason"]
    for name in (*WITHOUT_CLIP, *WITH_MODEL):
        assert reading["measures"][name] == whole.json(2)["measures"][name]
    assert reading["explaining"] == whole.json(2)["explaining"] or clip is not None
    scalars = fit.scalars()
    assert not {"drift/zone", "drift/position", "drift/borderline"} & set(scalars)
    assert set(scalars["drift/tilt"]) == {0, 2}
    assert fit.texts()[2].startswith(f"verdict not available: {why}")


def test_a_clip_that_is_a_folder_is_there_before_the_first_step(
    tiny_sd: str, trainer: Any, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("nowhere/at/all", str(tmp_path / "empty")):
        with pytest.raises(UserError, match=rf"^clip_drift\.clip: .*{folder}"):
            Fit(tiny_sd, trainer, tmp_path / "run", steps=1, drift={"clip": folder})
        assert not list(tmp_path.rglob("*.ckpt"))


def test_a_resume_without_the_clip_keeps_what_the_clip_saw_of_the_base(
    tiny_sd: str, trainer: Any, tmp_path: Path, whole: Fit
) -> None:
    blind = Fit(
        tiny_sd, trainer, tmp_path, steps=5, grid_steps="0,5", resume=whole.last, drift={"clip": None}
    )
    assert blind.json(5)["zone"] is None
    assert blind.json(5)["measures"]["tilt"]["value"] > 0
    seeing = Fit(tiny_sd, trainer, tmp_path, steps=6, grid_steps="0,6", resume=blind.last)
    assert seeing.json(6)["zone"] in ZONES


def test_one_language_prompt_gives_no_verdict_but_a_reason(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    fit = Fit(tiny_sd, trainer, tmp_path, steps=1, grid_steps="0,1", drift={"language": None})
    assert "there is no prompt to tell by whether words still matter" in fit.json(1)["reason"]
    assert set(fit.json(1)["measures"]) == {*WITHOUT_CLIP, *WITH_MODEL}
    assert "guidance" not in fit.json(1)["explaining"]


def test_data_without_photos_is_said_and_nothing_is_measured(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    fit = Fit(tiny_sd, trainer, tmp_path, steps=3, data=Latents((4, 8, 8)))
    assert "there are no photos to measure against (the data offers none)" in capsys.readouterr().err
    assert not (fit.run / "drift").exists()
    assert set(fit.scalars()["drift/text"]) == {3}


# -- which pictures ----------------------------------------------------------------------------------------


def test_what_is_missing_from_the_seed_grid_is_said_early(
    tiny_sd: str, trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    drift = {"language": "words", "dream": "subject", "steps": "0,1,3"}
    fit = Fit(tiny_sd, trainer, tmp_path, steps=1, grid_steps="0,1", drift=drift)
    said = capsys.readouterr().err
    assert "clip_drift.steps: nothing is measured at 3, which is not in seed_grid.steps" in said
    assert (
        "clip_drift.language: seed_grid.groups holds no group 'words' (there is dream, language, subject)"
        in said
    )
    assert "clip_drift.dream: the group 'subject' has one seed and cannot be measured" in said
    assert "none of the seed grid's pictures is a probe" in said
    assert not (fit.run / "drift").exists()


def test_the_instance_prompt_is_no_probe() -> None:
    groups = {"a": (["x", "a photo of sks cup"], [0, 1]), "b": (["y", "x"], [3, 4, 5])}
    probes = find_probes(groups, "a", "b", "a photo of sks cup")
    assert probes.roles == {"y": "language", "x": "language"}
    assert probes.keys == [(prompt, seed) for prompt in ("y", "x") for seed in (3, 4, 5)]
    (remark,) = probes.remarks
    assert remark.startswith("clip_drift.dream: 'a photo of sks cup' is the instance prompt")
    assert find_probes(groups, None, None, "").keys == []


def test_the_photos_are_those_the_model_sees_cropped_in_the_middle(tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 64), (200, 0, 0))
    wide.paste((0, 0, 200), (16, 0, 80, 64))
    wide.save(tmp_path / "wide.png")
    for crop in ("center", "random"):
        data = InstanceImages(str(tmp_path), resolution=64, crop=crop, cache_dir=None)  # type: ignore[arg-type]
        (photo,) = instance_photos(data)
        assert photo.size == (64, 64)
        assert photo.getcolors() == [(64 * 64, (0, 0, 200))]
    assert instance_photos(Latents()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"stop_when": "burnt"},
            "clip_drift.stop_when: 'burnt' is not a zone to stop at; give one of dreaming",
        ),
        ({"stop_when": "under-drifted"}, "clip_drift.stop_when: 'under-drifted' is not"),
        ({"steps": "8;9"}, "clip_drift.steps: '8;9' is not a whole number or a range"),
        ({"text_every_n_steps": -1}, "clip_drift.text_every_n_steps: -1"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ClipDrift(**options)


def test_a_base_whose_pictures_are_on_disk_is_measured_once(
    trainer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    embed, seen = FrozenClip.embed_images, []

    def counted(self: FrozenClip, images: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(images))
        return embed(self, images, *args, **kwargs)

    monkeypatch.setattr(FrozenClip, "embed_images", counted)

    def fit(name: str, kept: bool) -> tuple[list[dict[str, Any]], int]:
        seen.clear()
        grid, drift = (
            {"cache_dir": str(tmp_path / kind) if kept else None} for kind in ("pictures", "drift")
        )
        done = Fit("pocket", trainer, tmp_path / name, grid=grid, drift=drift)
        return [done.json(step) for step in (0, 2, 4)], sum(seen)

    alone, pictures = fit("alone", False)
    first, again = fit("first", True)
    second, fewer = fit("second", True)
    assert first == second == alone
    assert again == pictures
    assert fewer == pictures - 2 * (1 + len(LANGUAGE))


# -- stopping ----------------------------------------------------------------------------------------------


def test_a_fit_that_leaves_the_corridor_ends_and_its_last_dreaming_checkpoint_stays(
    trainer: Any, tmp_path: Path, capsys: Any
) -> None:
    # Thresholds under which even a collapsing model still dreams, until it is collapsed.
    stray = {field.name: 0.01 for field in fields(Thresholds) if field.name.startswith("stray")}
    late = Thresholds(language_keep=0.05, language_lost=0.04, spread=0.18, photo_loss=9.0, **stray)
    drift = {"stop_when": "cooked", "thresholds": late, "language_probe": False}
    options: dict[str, Any] = {
        "grid_steps": "0,2,10,20",
        "rate": 1e-3,
        "keep": 1,
        "save": "10",
        "drift": drift,
    }
    fit = Fit("pocket", trainer, tmp_path, steps=30, grid={"height": 64}, **options)
    zones = {step: fit.json(step)["zone"] for step in (2, 10)}
    assert zones[2] == "dreaming"
    assert zones[10] in ("cooked", "broken")
    assert fit.trainer.global_step == 10
    kept = tmp_path / "ckpt" / "step=00002.ckpt"  # no step of step_checkpoint, and older than the one to keep
    assert read_checkpoint(kept)["global_step"] == 2
    said = capsys.readouterr().err
    assert (
        f"the fit ends at step 10 because it is {zones[10]} (clip_drift.stop_when); the last dreaming" in said
    )
    assert f"checkpoint is {kept}" in said
    # Going on from there knows what dreamt.
    again = Fit(
        "pocket",
        trainer,
        tmp_path,
        steps=20,
        grid={"height": 64},
        resume=tmp_path / "ckpt" / "step=00010.ckpt",
        **options,
    )
    assert again.trainer.global_step == 20
    assert f"the last dreaming checkpoint is {kept}" in capsys.readouterr().err
    assert kept.exists()


# -- the language probe ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [2, 3, 8, 12, 39])
def test_the_probe_takes_at_most_forty_forwards_and_changes_with_the_weights_only(
    tiny_sd: str, prompts: int
) -> None:
    module = DreamBooth(tiny_sd)
    module.configure_model()
    parts = load_stable_diffusion(tiny_sd)
    words = [f"prompt {number}" for number in range(prompts)]
    count = len(trials(prompts))
    latents = encode_pictures(parts, [Image.new("RGB", (64, 64), (9 * i, 90, 30)) for i in range(count)])
    seen: list[int] = []
    hook = parts.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    base = probe(parts, module.scheduler, words, latents)
    hook.remove()
    assert FORWARDS - prompts - 1 < sum(seen) <= FORWARDS
    assert probe(parts, module.scheduler, words, latents) == base
    assert relative(base, base) == base | {"guidance": 1.0, "sensitivity": 1.0}
    with full_above(2):
        assert probe(parts, module.scheduler, words, latents) == pytest.approx(base, rel=1e-3)
    # A UNet that does not listen: prompts and none are all the same.
    for name, weight in parts.unet.named_parameters():
        if "attn2.to_out" in name:
            weight.data.zero_()
    deaf = relative(base, probe(parts, module.scheduler, words, latents))
    assert deaf["guidance"] == pytest.approx(0, abs=1e-4)
    assert deaf["sensitivity"] == pytest.approx(0, abs=1e-4)


def test_a_milestone_is_probed_once(tiny_sd: str, trainer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    calls: list[int] = []

    def counted(*args: Any) -> dict[str, float]:
        calls.append(len(args[3]))
        return probe(*args)

    monkeypatch.setattr("lightning_drift.drift.measures.language_probe.probe", counted)
    Fit(tiny_sd, trainer, tmp_path, steps=2)
    assert calls == [len(trials(len(LANGUAGE)))] * 2  # the base and step 2


def test_a_pictures_latent_is_the_autoencoders() -> None:
    parts = load_stable_diffusion(str(DATA / "tiny_sd"))
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    (latent,) = encode_pictures(parts, [picture])
    pixels = (
        torch.tensor(list(picture.convert("L").tobytes())).view(1, 1, 64, 64).expand(1, 3, 64, 64) / 127.5 - 1
    )
    with torch.no_grad():
        mean = parts.vae.encode(pixels).latent_dist.mean[0] * parts.vae.config.scaling_factor
    assert torch.allclose(latent, mean, atol=1e-6)


def test_trials_spread_over_prompts_pictures_and_noise() -> None:
    plan = trials(8)
    assert [trial.prompt for trial in plan] == [0, 2, 4, 6]
    assert [trial.timestep for trial in plan] == [250, 450, 650, 800]
    plan = trials(4, 100)
    assert [(trial.prompt, trial.picture) for trial in plan] == [(p, k) for k in (0, 1) for p in range(4)]
    assert len({(trial.prompt, trial.timestep) for trial in plan}) == 8
    assert all(trial.timestep in (25, 45, 65, 80) for trial in plan)


# -- the text encoder --------------------------------------------------------------------------------------


def test_text_similarity_sees_a_rotation_and_structure_does_not() -> None:
    base = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert (similarity(base, base), structure(base, base)) == (1.0, 1.0)
    turn = math.radians(60)
    rotation = torch.eye(4)
    rotation[:2, :2] = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    plane = torch.cat([base[:, :2], torch.zeros(5, 2)], dim=1)
    assert similarity(plane, plane @ rotation.T) == pytest.approx(0.5)
    assert structure(plane, plane @ rotation.T) == pytest.approx(1.0)
    assert similarity(base, 3 * base) == pytest.approx(1.0)
    assert structure(base[:2], base[:2]) is None
    assert similarity(base, -base) == pytest.approx(-1.0)


def test_a_frozen_text_encoder_is_not_measured(tiny_sd: str, trainer: Any, tmp_path: Path) -> None:
    class Frozen(DreamBooth):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, train_text_encoder=False, **options)

    grid = SeedGrid("0,1", GROUPS, num_inference_steps=1)
    drift = ClipDrift("pocket", cache_dir=None, text_every_n_steps=1)
    settings = {"max_steps": 1, "callbacks": [drift, grid], "default_root_dir": tmp_path}
    trainer(**settings).fit(Frozen(tiny_sd), datamodule=InstanceImages("coffee", cache_dir=None))
    assert drift.reading is not None
    probed = {"guidance", "sensitivity", "dc_accuracy", "departure_language"}
    asked = {"texture", "updates", "departure", "prompt_force", *CURVES["trained"]}
    assert set(drift.reading.explaining) == probed | asked


# -- two ranks ---------------------------------------------------------------------------------------------


def test_two_ranks_measure_once_and_stop_together(tiny_sd: str, tmp_path: Path) -> None:
    words = [
        f"--model.pipeline={tiny_sd}", "--model.learning_rate=1e-3", "--trainer.max_steps=6",
        "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu", "--seed_grid.steps=0,3",
        "--seed_grid.num_inference_steps=2", "--step_checkpoint.steps=3", "--clip_drift.stop_when=dreaming",
        "--seed_grid.groups={dream: {prompts: a, seeds: 0-1}, language: {prompts: [b, c], seeds: 0-1}}",
        # Whatever the pictures of a random model do, it is beyond these borders.
        "--clip_drift.thresholds.drift_prompt=0.000001", "--clip_drift.thresholds.tilt=0.000001",
    ]  # fmt: skip
    command = [sys.executable, "-m", "lightning_drift", "fit", *words]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (run,) = (tmp_path / "tb_logs" / "coffee").iterdir()
    assert {path.name for path in (run / "drift").iterdir()} == {"step=00000.json", "step=00003.json"}
    assert result.stdout.count("step 3: ") == 1
    assert result.stderr.count("the fit ends at step 3 because it is") == 1
    assert read_checkpoint(run / "checkpoints" / "step=00003.ckpt")["global_step"] == 3


# -- networks that are not the model's own -------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(tmp_path_factory: Any) -> Path:
    """A SigLIP and two networks of pictures."""
    folder = tmp_path_factory.mktemp("others")
    networks.siglip(folder / "siglip")
    networks.dino(folder / "dino")
    networks.dino(folder / "registers", registers=2)
    return folder


def test_other_networks_measure_are_named_and_kept_apart(
    tiny_sd: str, trainer: Any, tmp_path: Path, others: Path, capsys: Any
) -> None:
    judges = {"clip": str(others / "siglip"), "image_model": str(others / "dino")}
    options = judges | {"language_probe": False}
    fit = Fit(tiny_sd, trainer, tmp_path / "one", steps=2, grid_steps="0,2", drift=options)
    reading = fit.json(2)
    assert (reading["clip"], reading["image_model"]) == tuple(judges.values())
    assert reading["zone"] in ZONES
    for name in judges.values():
        said = f"the thresholds were calibrated with the pocket's own CLIP (pocket), not with {name}"
        assert any(said in doubt for doubt in reading["doubts"])
        assert said in fit.texts()[2]
        assert said in capsys.readouterr().out or name == judges["image_model"]
    assert fit.json(0)["measures"]["drift"]["value"] == 0
    # A checkpoint is measured again by both.
    opened = open_pipeline(str(fit.last))
    evaluator = CheckpointEvaluator(opened, open_pipeline(tiny_sd), judges["clip"])
    assert evaluator.eye is not None
    assert evaluator.eye.hash == evaluator.base.image_hash

    def resumed(name: str, **changes: Any) -> dict[str, Any]:
        drift = options | changes
        again = Fit(tiny_sd, trainer, tmp_path / name, 3, fit.last, grid_steps="0,3", drift=drift)
        return again.json(3)

    same = resumed("same")
    assert same["image_model"] == judges["image_model"]
    other = resumed("other", image_model=str(others / "registers"))
    assert other["image_model"] is None
    assert other["zone"] in ZONES
    assert any("were not taken with this clip_drift.image_model" in doubt for doubt in other["doubts"])
    without = resumed("without", image_model=None)
    assert any(
        "were compared by a clip_drift.image_model, and now by the CLIP" in d for d in without["doubts"]
    )
    for name in ("drift", "pull", "spread"):
        assert other["measures"][name] == without["measures"][name] != same["measures"][name]
    assert other["measures"]["language"] == same["measures"]["language"]  # by pictures and prompts


def test_an_image_model_that_is_a_folder_is_there_before_the_first_step(
    tiny_sd: str, trainer: Any, tmp_path: Path, others: Path
) -> None:
    for name in ("nowhere/at/all", str(others / "siglip")):
        with pytest.raises(UserError, match=rf"^clip_drift\.image_model: .*{name}"):
            Fit(tiny_sd, trainer, tmp_path / "run", steps=1, drift={"image_model": name})
    assert not list(tmp_path.rglob("*.ckpt"))
