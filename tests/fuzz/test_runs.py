"""Other people's run folders: read, or refused in a sentence."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bounded import bounded, value_or_sentence
from helpers.corridor_runs import config, write_run
from helpers.hostile import changed, json_text, texts, with_a_wrong_value
from helpers.paths import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_drift.corridor.blind import measures_at
from lightning_drift.corridor.label.labels import Labels
from lightning_drift.corridor.plan import read_plan
from lightning_drift.corridor.read import read
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.drift.base import FORMAT, DriftBase
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.photo_base import PhotoBase
from lightning_drift.drift.state import DriftState
from lightning_drift.drift.threshold_file import read_thresholds
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL, Thresholds, zone_of
from lightning_drift.photos.posteriors import cached_posteriors
from lightning_drift.stable_diffusion.loading import load_stable_diffusion

FEWER = settings(max_examples=settings().max_examples // 2)
RUN = config(2e-6, (8, 16))


@pytest.fixture(scope="module")
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        verdicts = {8: ("dreaming", None, 40.0), 16: ("forgetting", "cooked", 80.0)}
        yield write_run(Path(name) / "coffee" / "lr2e-6_000", 2e-6, (8, 16), verdicts)


@pytest.fixture(scope="module")
def vae() -> Any:
    return load_stable_diffusion(str(DATA / "tiny_sd")).vae


@FEWER
@given(st.data())
def test_event_files(run: Path, data: st.DataObject) -> None:
    (path,) = run.glob("events.out.tfevents.*")
    original = path.read_bytes()
    try:
        path.write_bytes(data.draw(changed(original)))
        table = value_or_sentence(lambda: read(run))
        assert table is None or [run.name for run in table.runs] == ["lr2e-6_000"]
    finally:
        path.write_bytes(original)


@FEWER
@given(st.one_of(with_a_wrong_value(RUN).map(json_text), texts))
def test_configurations_of_runs(run: Path, text: str) -> None:
    original = (run / "config.yaml").read_bytes()
    try:
        (run / "config.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        value_or_sentence(lambda: [run.prompts for run in read(run).runs])
    finally:
        (run / "config.yaml").write_bytes(original)


@given(
    st.one_of(
        with_a_wrong_value({"lr": [2e-6, 4e-6], "steps": [8, 16], "seeds": [0, 1]}).map(json_text), texts
    ),
    st.one_of(with_a_wrong_value(RUN).map(json_text), st.just("{}")),
)
def test_plans_of_corridors(plan: str, fit: str) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        for name, text in (("plan.yaml", plan), ("fit.yaml", fit)):
            (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        value_or_sentence(lambda: read_plan(folder))
        value_or_sentence(lambda: read(folder))
    finally:
        shutil.rmtree(folder)


PICTURE = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
BASE = DriftBase(
    {"format": FORMAT, "seed_everything": 0, "clip_drift.clip": None},
    replace(Features.of([PICTURE]), clip=torch.ones(1, 4)),
    torch.ones(1, 4),
    torch.ones(1, 4, 8, 8),
    {"language": 0.5},
)
PHOTO_BASE = PhotoBase(
    {"format": 1}, torch.ones(1, 4, 8, 8), torch.ones(1, 77, dtype=torch.long), torch.ones(1, 3)
)
STATE = {
    "base": BASE.state(),
    "photos": BASE.pictures.tensors(),
    "photo_base": PHOTO_BASE.state(),
    "thresholds": dict(vars(Thresholds())),
    "zones": {"8": "dreaming"},
}


@pytest.mark.parametrize("part", ["base", "photos", "photo_base", "thresholds", "zones"])
def test_what_a_checkpoint_holds_of_the_drift(part: str) -> None:
    assert getattr(DriftState(STATE), part)()

    @given(with_a_wrong_value(STATE[part]))
    def look(entry: Any) -> None:
        value_or_sentence(getattr(DriftState({part: entry}), part))

    look()


@given(st.data())
def test_caches_of_the_drift(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        BASE.save(folder)
        (place,) = folder.glob("*.safetensors")
        place.write_bytes(data.draw(changed(place.read_bytes())))
        with bounded():
            found = DriftBase.load(folder, BASE.settings)
        assert found is None or found.settings == BASE.settings


@FEWER
@given(st.data())
def test_caches_of_photos(vae: Any, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), [torch.zeros(64, 64, 3, dtype=torch.uint8)]
        cpu = torch.device("cpu")
        cached_posteriors(vae, images, cpu, folder)
        (place,) = folder.glob("*.safetensors")
        place.write_bytes(data.draw(changed(place.read_bytes(), most=3)))
        with bounded():
            mean, std = cached_posteriors(vae, images, cpu, folder)
        assert mean.shape == std.shape == (1, 4, 8, 8)
        assert mean.dtype == std.dtype == torch.float32
        assert bool(mean.isfinite().all() and std.isfinite().all() and (std >= 0).all())


MEASURES = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in (*DECIDING, *WITH_MODEL)}
SAID = {"made_by": "lightning-drift corridor label", "labels": [{"run": "a", "step": 8, "zone": "cooked"}]}


@FEWER
@given(
    st.one_of(with_a_wrong_value(dict(vars(Thresholds()))).map(json_text), texts),
    st.one_of(with_a_wrong_value(SAID).map(json_text), texts),
    st.one_of(with_a_wrong_value({"measures": MEASURES}).map(json_text), texts),
)
def test_what_blind_labels_are_made_of(thresholds: str, labels: str, reading: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "drift").mkdir()
        places = ("thresholds.yaml", "labels.json", "drift/step=00008.json")
        for place, text in zip(places, (thresholds, labels, reading), strict=True):
            (folder / place).write_bytes(text.encode("utf-8", "surrogatepass"))
        run = RecordedRun("a", folder, 1e-6, {}, root=folder)
        value_or_sentence(lambda: Thresholds(**read_thresholds(folder / "thresholds.yaml")))
        value_or_sentence(lambda: Labels(CorridorTable(folder, "a", [run], [8], {})))
        value_or_sentence(lambda: zone_of({n: i.value for n, i in measures_at(run, 8).items()}, Thresholds()))
