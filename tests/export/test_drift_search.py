"""Finding the largest drift that dreams: the bisection, and a real checkpoint judged as its fit judged it."""

import csv
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.fits import fit_checkpoint
from helpers.paths import DATA

from lightning_drift.common.errors import UserError
from lightning_drift.drift.checkpoint_evaluator import probe_pictures
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import Thresholds, Verdict
from lightning_drift.export import drift_search
from lightning_drift.export.command import export
from lightning_drift.export.drift_search import (
    PARTS_PRECISION,
    PRECISION,
    Attempt,
    Search,
    largest_dreaming,
    search,
)
from lightning_drift.export.part_search import with_parts
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.stable_diffusion.drift_dial import PartDrifts, dial_title
from lightning_drift.stable_diffusion.interpolation import base_of
from lightning_drift.stable_diffusion.loading import load_stable_diffusion, open_pipeline
from lightning_drift.sweep.data import Sweep
from lightning_drift.sweep.sweep_dreamer import SweepDreamer


def zones(start: float, end: float, last: str = "cooked") -> Any:
    asked = []

    def zone(drift: float) -> str:
        asked.append(drift)
        return "under-drifted" if drift < start else "dreaming" if drift <= end else last

    return zone, asked


@pytest.mark.parametrize("last", ["forgetting", "cooked", "broken"])
@pytest.mark.parametrize("end", [0.31, 0.5, 0.77, 0.999, 1.0, 1.2, 1.49])
def test_the_end_of_dreaming_is_found_from_below(end: float, last: str) -> None:
    zone, asked = zones(0.1, end, last)
    found = largest_dreaming(zone)
    assert end - PRECISION <= found <= end
    assert found in asked, "only what was seen to dream is chosen"
    assert len(asked) == len(set(asked)) <= 7


def test_a_model_that_dreams_to_the_end_of_the_dial_asks_twice() -> None:
    zone, asked = zones(0.2, 9)
    assert largest_dreaming(zone) == 1.5
    assert asked == [1.0, 1.5]


def test_dreaming_is_found_above_under_drifted() -> None:
    assert 1.2 <= largest_dreaming(zones(1.1, 1.3)[0]) <= 1.3
    assert 0.35 <= largest_dreaming(zones(0.2, 0.4)[0]) <= 0.4


def test_where_no_drift_dreams_it_is_said() -> None:
    with pytest.raises(UserError, match=r"the model is under-drifted even at a drift of 1\.5"):
        largest_dreaming(zones(9, 9)[0])
    with pytest.raises(UserError, match=r"at 0\.\d+ the model is under-drifted and at 0\.\d+ it is broken"):
        largest_dreaming(zones(0.5, 0.4, "broken")[0])


# -- a real fit --


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: Any) -> Path:
    """A pocket model fitted fast and hard, as the command does it, with one milestone and a threshold set."""
    folder = tmp_path_factory.mktemp("auto")
    groups = {
        "dream": {"prompts": "monumental, dramatic", "seeds": "0-1", "num_inference_steps": 5},
        "language": {"prompts": ["mountains at night with a moon", "a green forest"], "seeds": "0-3"},
    }

    options = [
        *(sys.executable, "-m", "lightning_drift", "fit", "--trainer.max_steps=20"),
        *("--model.learning_rate=2e-4", "--seed_grid.steps=0,20", "--seed_grid.num_inference_steps=4"),
        *("--step_checkpoint.steps=20", f"--seed_grid.groups={json.dumps(groups)}"),
        *("--clip_drift.thresholds.language_keep=0.99", "--trainer.enable_progress_bar=false"),
    ]
    done = subprocess.run(options, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("tb_logs/*/*/checkpoints/step=00020.ckpt")
    return found


def try_only(monkeypatch: Any, *drifts: float) -> None:
    """Have the search try these drifts and choose the last; no part by itself."""

    def each(zone: Any) -> float:
        return [(zone(drift), drift) for drift in drifts][-1][1]

    monkeypatch.setattr(drift_search, "largest_dreaming", each)
    monkeypatch.setattr(drift_search, "_keeping_parts", lambda place, outcome: {})


def test_drift_1_is_measured_as_the_fit_measured_it_and_0_as_the_base(
    checkpoint: Path, monkeypatch: Any, capsys: Any
) -> None:
    try_only(monkeypatch, 1, 0.5, 0)
    parts = open_pipeline(str(checkpoint))
    outcome = search(parts, base_of(parts), None)
    whole, half, none = outcome.attempts
    said = json.loads((checkpoint.parents[1] / "drift" / "step=00020.json").read_text())
    assert whole.verdict.zone == said["zone"]
    for name, interval in said["measures"].items():
        assert whole.measures[name].value == pytest.approx(interval["value"], abs=2e-3), name
    assert none.measures["drift_prompt"].value == pytest.approx(0, abs=1e-4)
    assert none.measures["language"].value == pytest.approx(1, abs=1e-4)
    assert none.verdict.zone == "under-drifted"
    assert 0 < half.measures["drift_prompt"].value < whole.measures["drift_prompt"].value
    assert f"| {whole.measures['drift_prompt'].value:.2f} |" in outcome.markdown
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "drift 1",
        "drift 0.5",
        "drift 0",
    ]


def test_a_checkpoint_is_judged_by_the_thresholds_of_its_fit(
    checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    try_only(monkeypatch, 0.25)

    def trial(path: Path) -> Any:
        opened = open_pipeline(str(path))
        return search(opened, base_of(opened), None).attempts[0]

    strict = trial(checkpoint)
    assert 0.75 < strict.measures["language"].value < 0.99
    assert strict.verdict.zone == "forgetting"
    assert "below 0.99" in strict.verdict.reason
    # A checkpoint without thresholds is judged by the usual ones.
    content = torch.load(checkpoint, weights_only=True)
    thresholds = content["callbacks"]["ClipDrift"].pop("thresholds")
    assert thresholds == {**asdict(Thresholds()), "language_keep": 0.99}
    torch.save(content, tmp_path / "a.ckpt")
    assert trial(tmp_path / "a.ckpt").verdict.zone == "dreaming"
    # Those of another version are refused.
    content["callbacks"]["ClipDrift"]["thresholds"] = {"unheard_of": 0.5}
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(UserError, match=r"holds of ClipDrift cannot be used .*unheard_of"):
        trial(tmp_path / "b.ckpt")


def test_auto_exports_the_drift_that_was_found(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    try_only(monkeypatch, 1, 0.25)
    auto = export(str(checkpoint), str(tmp_path / "auto"), drift="auto")
    given = export(str(checkpoint), str(tmp_path / "given"), drift=0.25)
    one, other = (load_stable_diffusion(str(done.path)) for done in (auto, given))
    assert all(
        torch.equal(tensor, other.unet.state_dict()[name]) for name, tensor in one.unet.state_dict().items()
    )
    assert "The drift of 0.25 is the largest" in auto.report
    card = auto.path.with_name(f"{auto.path.stem}.README.md").read_text()
    assert "## Where it still dreams" in card
    assert card.count("| 0.25 | ") == card.count("| 1 | ") == 1
    small = export(str(checkpoint), str(tmp_path / "lora"), "lora", drift="auto")
    assert "is the largest" in small.report
    assert "Left behind" in small.report


def test_parts_are_kept_where_that_pulls_more(checkpoint: Path, monkeypatch: Any) -> None:
    asked = []

    def one_end(part: str, place: Any, low: float, high: float, precision: float) -> Any:
        asked.append((part, low, high, precision))
        place(with_parts(part, 1.0, 0.0))
        return with_parts(part, 1.0, 0.0)

    keeping = drift_search._keeping_parts
    try_only(monkeypatch, 1, 0.5, 0.25)
    monkeypatch.setattr(drift_search, "_keeping_parts", keeping)
    monkeypatch.setattr(drift_search, "farthest_keeping", one_end)
    parts = open_pipeline(str(checkpoint))
    outcome = search(parts, base_of(parts), None)
    assert asked == [
        ("unet", 0.25, 0.5, PARTS_PRECISION),
        ("text_encoder", 0.25, 0.5, PARTS_PRECISION),
    ]
    assert outcome.kept == {"unet": PartDrifts(1.0, 0.0), "text_encoder": PartDrifts(0.0, 1.0)}
    pulls = {attempt.drift: attempt.pull for attempt in outcome.attempts}
    assert len(pulls) == len(outcome.attempts) == 5
    assert outcome.gain(0.25) == outcome.gain(1) == 0  # they are the one dial's own
    assert outcome.drift == max((0.25, *outcome.kept.values()), key=outcome.gain)
    assert "With the UNet kept it dreams up to unet 1, text encoder 0: pull " in outcome.markdown
    assert "One dial for both gives pull " in outcome.markdown
    assert f"{dial_title(outcome.drift)} was chosen" in outcome.markdown
    assert "5 drifts were rendered" in outcome.markdown
    # Each part is the one of the model as trained or the base's: so is what is measured.
    assert pulls[PartDrifts(1.0, 0.0)] > pulls[PartDrifts(0.0, 1.0)]


def test_a_drift_is_compared_with_one_dial_at_its_language() -> None:
    def attempt(drift: Any, language: float, pull: float) -> Attempt:
        measures = {
            name: Interval(value, value, value) for name, value in (("language", language), ("pull", pull))
        }
        return Attempt(drift, measures, Verdict("dreaming", None, None, ""))

    parts = PartDrifts(1.0, 0.0)
    outcome = Search(0.5, [attempt(1.0, 0.2, 0.6), attempt(0.5, 0.8, 0.2), attempt(parts, 0.9, 0.15)])
    assert outcome.gain(0.5) == outcome.gain(1.0) == 0
    assert outcome.gain(parts) == pytest.approx(0.05)  # halfway from the base: 0.1
    outcome.attempts[2] = attempt(parts, 0.5, 0.3)
    assert outcome.gain(parts) == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("zone", "language", "place"),
    [
        ("under-drifted", 1.0, "short"),
        ("dreaming", 0.8, "dreaming"),
        ("forgetting", 0.7, "beyond"),
        ("cooked", 0.2, "beyond"),
        ("broken", 0.2, "beyond"),
        ("broken", 0.96, "short"),  # changed, but no photo came into it: it had too little of the other part
    ],
)
def test_where_a_drift_is_on_the_line_of_a_part(zone: str, language: float, place: str) -> None:
    measures = {"language": Interval(language, language, language)}
    attempt = Attempt(PartDrifts(0.0, 1.0), measures, Verdict(zone, None, None, ""))
    assert drift_search._place(attempt, Thresholds()) == place


def changes(report: str) -> dict[str, float]:
    """The last column of the report's table of drift measures."""
    table = report.partition("| measure | fine-tune | with this file | change |")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {row[0]: float(row[3]) for row in rows if len(row) == 4 and row[0] != "---"}


def test_small_exports_say_how_the_drift_measures_change(checkpoint: Path, tmp_path: Path) -> None:
    delta = export(str(checkpoint), str(tmp_path / "delta"), "delta")
    lora = export(str(checkpoint), str(tmp_path / "lora"), "lora", rank=1)
    kept, cut = changes(delta.report), changes(lora.report)
    assert {"drift prompt", "language", "tilt", "pull"} <= set(kept) == set(cut)
    assert "on 10 of the fit's probe pictures (3 prompts)" in delta.report
    assert max(abs(kept[name]) for name in ("drift prompt", "language", "tilt", "pull")) < 0.01
    assert cut["drift prompt"] < -0.01  # a single direction of each layer holds less of the drift
    card = lora.path.with_name(f"{lora.path.stem}.README.md").read_text()
    assert changes(card) == cut
    silent = export(str(checkpoint), str(tmp_path / "silent"), "delta", measure=False)
    assert not changes(silent.report)


def test_small_exports_that_cannot_be_measured_say_why(tmp_path: Path) -> None:
    options = {"format": "delta", "base": str(DATA / "tiny_sd")}
    plain = fit_checkpoint(tmp_path / "a.ckpt", str(DATA / "tiny_sd"))
    done = export(str(plain), str(tmp_path / "o"), **options)
    assert "The drift measures were not taken: " in done.report
    assert "holds nothing of ClipDrift to measure against." in done.report
    with pytest.raises(UserError, match=r"--measure: .* holds nothing of ClipDrift"):
        export(str(plain), str(tmp_path / "p"), measure=True, **options)
    with pytest.raises(UserError, match="--measure: a whole model loses nothing to measure"):
        export(str(plain), str(tmp_path / "q"), measure=True)


def test_measures_grow_with_the_dial_from_the_base_to_the_checkpoint(
    checkpoint: Path, trainer: Any, tmp_path: Path
) -> None:
    data = Sweep(
        str(checkpoint),
        prompts=["monumental, dramatic", "mountains at night with a moon", "a green forest"],
        seeds="0-1",
        num_inference_steps=4,
        drift="0,0.25,0.5,0.75,1",
        sheets=0,
    )
    writer = ImageWriter(str(tmp_path), contact_sheet=False)
    trainer(callbacks=[writer]).predict(SweepDreamer(), datamodule=data, return_predictions=False)
    rows = list(csv.DictReader((tmp_path / "index.csv").read_text(encoding="utf-8").splitlines()))
    for name in ("drift_from_base", "delta_e", "pull"):
        means = [
            mean(float(row[name]) for row in rows if row["drift"] == drift)
            for drift in ("0", "0.25", "0.5", "0.75", "1")
        ]
        assert means[0] == 0, name
        assert means == sorted(means), name
        assert len(set(means)) == 5, name


def test_few_seeds_of_each_prompt_are_rendered() -> None:
    groups = [["a", seed, "dream"] for seed in range(6)] + [["b", seed, "language"] for seed in (9, 3)]
    base: Any = SimpleNamespace(settings={"seed_grid.groups": groups})
    keys, roles, index = probe_pictures(base)
    assert keys == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 9), ("b", 3)]
    assert roles == {"a": "dream", "b": "language"}
    assert index == [0, 1, 2, 3, 6, 7]


@pytest.mark.parametrize("kind", ["base", "no state", "other"])
def test_what_cannot_be_judged_is_said(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    loaded = torch.load(checkpoint, weights_only=True)
    if kind == "base":
        with pytest.raises(
            UserError, match=r"^--drift auto: .* is not a checkpoint of a fit; give --drift a number$"
        ):
            export(str(DATA / "tiny_sd"), str(tmp_path / "o"), drift="auto", base=str(DATA / "tiny_sd"))
        return
    if kind == "no state":
        loaded["callbacks"] = {}
        match = (
            r"^--drift auto: .* holds nothing of ClipDrift to measure against; fit with a seed grid at step "
            "0 and clip_drift, or give --drift a number$"
        )
    else:
        loaded["callbacks"]["ClipDrift"]["base"]["settings"]["clip_drift.clip"] = "0" * 64
        match = "^--clip: pocket is not the CLIP that this checkpoint was measured with"
    torch.save(loaded, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=match):
        export(str(tmp_path / "a.ckpt"), str(tmp_path / "o"), drift="auto")
    if kind == "other":  # asked for by --measure, and still the CLIP's fault
        with pytest.raises(UserError, match=match):
            export(str(tmp_path / "a.ckpt"), str(tmp_path / "o"), "delta", measure=True)
    with pytest.raises(UserError, match="--clip: it measures for --drift auto and --measure alone"):
        export(str(tmp_path / "a.ckpt"), str(tmp_path / "o"), clip="pocket")
