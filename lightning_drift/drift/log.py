"""A milestone's reading, and where it is written: to TensorBoard, to a JSON file, and in a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lightning_drift.common.atomic import atomic_write
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.measures.loss_curve import KINDS
from lightning_drift.drift.measures.noise_levels import NOISE_LEVELS, level_tag
from lightning_drift.drift.metric import MEASURES
from lightning_drift.drift.verdict import WITH_MODEL, ZONES, Thresholds, Verdict, in_a_line, provenance
from lightning_drift.fit.loggers import log_text

COMPARED = (
    "position",
    "zone",
    "language",
    "drift_prompt",
    "tilt",
    "spread",
    "pull",
    "aim",
    "likeness",
    "copy",
    "photo_loss",
)
"""Measures that are columns of the table of runs."""

DIFFERING = {"learning_rate", "max_steps", "photos", "seed", "train_text_encoder_steps"}
"""Settings that the table of runs opens on. TensorBoard (2.21) shows five: those that are said to differ,
by name, then others."""

DREAMING_BAND = (25.0, 50.0)
"""Positions between which a checkpoint dreams, whatever the thresholds are (see `Verdict`)."""


@dataclass(frozen=True)
class Reading:
    """Everything that was measured of one checkpoint.

    Attributes:
        step: Optimizer steps; 0 is the base model.
        measures: Measures of the pictures and the losses on trained and held-out photos, with intervals.
        verdict: None where there is none.
        unavailable: Why there is no verdict and what to do; empty where there is one.
        explaining: Measures without intervals by tag: the text encoder's, the denoiser's and the texture.
        weights: Relative change of the weights by block; empty where it is not measured.
        thresholds: Where zones end.
        clip: The CLIP that measured; None without one.
        image_model: The network by which pictures were compared with pictures; None where the CLIP did.
        doubts: Sentences on why the verdict should be read with care.
    """

    step: int
    measures: Mapping[str, Interval]
    verdict: Verdict | None
    unavailable: str
    explaining: Mapping[str, float]
    weights: Mapping[str, float]
    thresholds: Thresholds
    clip: str | None
    image_model: str | None = None
    doubts: list[str] = field(default_factory=list)

    @property
    def markdown(self) -> str:
        """The verdict in a line, with the zone in bold; a broken model has no position."""
        if self.verdict is None:
            return f"verdict not available: {self.unavailable}"
        found = self.verdict
        return in_a_line(found.zone, found.borderline, found.position, found.reason)

    @property
    def line(self) -> str:
        """The verdict in a line for a terminal."""
        return f"step {self.step}: {self.markdown.replace('**', '')}"

    def scalars(self) -> dict[str, float]:
        """Everything that is a number, by TensorBoard tag.

        Zone and borderline are indices in ``ZONES``; -1 is not borderline. A broken model has no position, so
        the curve of positions has no point there. ``corridor/*`` are the lines that the charts of the
        corridor are drawn against.
        """
        scalars = {f"drift/{name}": value for name, value in self.explaining.items()}
        for name, interval in self.measures.items():
            scalars[f"drift/{name}"] = interval.value
            scalars[f"drift_low/{name}"], scalars[f"drift_high/{name}"] = interval.low, interval.high
        if self.verdict is not None:
            border = self.verdict.borderline
            if self.verdict.position is not None:
                scalars["drift/position"] = self.verdict.position
            scalars["drift/zone"] = ZONES.index(self.verdict.zone)
            scalars["drift/borderline"] = -1 if border is None else ZONES.index(border)
            scalars["corridor/position_low"], scalars["corridor/position_high"] = DREAMING_BAND
            scalars |= {f"corridor/{name}": value for name, value in self.thresholds.numbers().items()}
        return scalars

    def save(self, path: Path) -> None:
        """Write the whole reading as JSON, complete or not at all.

        Raises:
            OSError: It cannot be written.
        """
        verdict = {name: getattr(self.verdict, name, None) for name in ("zone", "borderline", "position")}
        content = {
            "step": self.step,
            **verdict,
            "reason": self.verdict.reason if self.verdict else self.markdown,
            "clip": self.clip,
            "image_model": self.image_model,
            "measures": {name: asdict(interval) for name, interval in self.measures.items()},
            "explaining": dict(self.explaining),
            "weights": dict(self.weights),
            "doubts": self.doubts,
            "thresholds": asdict(self.thresholds),
            "provenance": provenance(self.thresholds),
        }
        with atomic_write(path) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def log_reading(trainer: Trainer, reading: Reading) -> None:
    """Write a reading's numbers to every logger, and its verdict to those that take texts."""
    log_scalars(trainer, reading.step, reading.scalars())
    doubts = "".join(f"\n\nRead it with care: {doubt}." for doubt in reading.doubts)
    log_text(trainer, "drift/verdict", reading.markdown + doubts, reading.step)


def log_scalars(trainer: Trainer, step: int, scalars: Mapping[str, float]) -> None:
    """Write numbers to every logger, under the number of optimizer steps taken."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(scalars), step=step)


def describe_run(trainer: Trainer, settings: Mapping[str, Any], held_out: bool) -> None:
    """Write a new run's settings and charts to TensorBoard, into the event file of its scalars.

    Lightning's own ``log_hyperparams`` would add a point of every measure at step 0. The settings go into the
    table of runs (HParams), whose columns of results are the scalars' last values.

    Args:
        trainer: Its TensorBoard logger, if it has one, is written to.
        settings: What this run is, in plain values.
        held_out: Whether there are photos that are never trained on.
    """
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()
    }
    for logger in trainer.loggers:
        writer: Any = getattr(logger, "experiment", None)
        if isinstance(writer, SummaryWriter):
            columns: Any = dict.fromkeys((f"drift/{name}" for name in COMPARED), 0.0)
            experiment, *session = hparams(plain, columns)  # type: ignore[no-untyped-call]
            for summary in (_opened_on_what_differs(experiment), *session):
                writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
            writer.add_custom_scalars(charts(held_out))
            writer.flush()


def _opened_on_what_differs(experiment: Any) -> Any:
    """The summary of the table of runs, in which the settings of `DIFFERING` are said to differ."""
    (value,) = experiment.value
    content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in DIFFERING
    value.metadata.plugin_data.content = content.SerializeToString()
    return experiment


def charts(held_out: bool = False) -> dict[str, dict[str, list[Any]]]:
    """The custom scalars: the corridor's bands, every measure with its interval, and what explains them.

    Args:
        held_out: Whether the loss on held-out photos is among them.
    """
    kinds = KINDS if held_out else KINDS[:1]
    photos = "trained and held-out photos" if held_out else "the photos"
    levels = {
        f"loss on {photos}, noise {level:g}": [
            "Multiline",
            [f"drift/{level_tag(kind, level)}$" for kind in kinds],
        ]
        for level in NOISE_LEVELS
    }
    measured = (*MEASURES, *WITH_MODEL, *(["held_out_loss"] if held_out else []))

    def against(name: str, *lines: str) -> list[Any]:
        return ["Multiline", [f"drift/{name}$", *(f"corridor/{line}$" for line in lines)]]

    return {
        "corridor": {
            "position, the dreaming band": [
                "Margin",
                ["drift/position", "corridor/position_low", "corridor/position_high"],
            ],
            "language: dreaming, forgetting, lost": against("language", "language_keep", "language_lost"),
            "drift of a prompt: where dreaming begins": against("drift_prompt", "drift_prompt"),
            "tilt: where dreaming begins": against("tilt", "tilt"),
            "spread between prompts: collapsed below": against("spread", "spread"),
            "pull towards the photos: cooked above": against("pull", "pull"),
            "aim at the photos: cooked above": against("aim", "aim"),
            "likeness to a photo: cooked above": against("likeness", "likeness"),
            "copies of photos: cooked above": against("copy", "copy"),
            "loss on the photos: damage above": against("photo_loss", "photo_loss"),
        },
        "measures with 90 % intervals": {
            name: ["Margin", [f"drift/{name}", f"drift_low/{name}", f"drift_high/{name}"]]
            for name in measured
        },
        "loss curves": {
            f"loss on {photos}": ["Multiline", [f"drift/loss_{kind}$" for kind in kinds]],
            **levels,
            **({"memorising": ["Multiline", ["drift/memorising$"]]} if held_out else {}),
        },
        "what explains them": {
            "weights": ["Multiline", ["drift/weights/unet$", "drift/weights/text_encoder$"]],
            "text encoder": ["Multiline", ["drift/text$", "drift/text_structure$"]],
            "language probe": ["Multiline", ["drift/guidance$", "drift/sensitivity$"]],
            "diffusion classifier": ["Multiline", ["drift/dc_accuracy$"]],
            "departure of the denoiser": ["Multiline", ["drift/departure$", "drift/departure_language$"]],
            "force of the instance prompt": ["Multiline", ["drift/prompt_force$"]],
            "fine texture and update norms": ["Multiline", ["drift/texture$", "drift/updates$"]],
        },
    }
