"""Exporting only what a fine-tune changed: a delta or a LoRA, with a report of what it lost."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_drift.common.errors import UserError, notice
from lightning_drift.export.check import probe, read_source, refuse_other_outputs, round_change_to_half_
from lightning_drift.export.delta_lora import Change, change_bytes, write_change
from lightning_drift.export.exported import Exported
from lightning_drift.export.lora import layer_names
from lightning_drift.export.model_card import companions
from lightning_drift.export.provenance import Provenance
from lightning_drift.export.reconstruction import Reconstruction, reconstruct
from lightning_drift.export.staging import staging
from lightning_drift.export.target import refuse_full
from lightning_drift.stable_diffusion.loading import load_opened
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline
from lightning_drift.weights.hashes import sha256

if TYPE_CHECKING:
    from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator

_SMALL_SIDE = 128  # pixels; the pictures of such a model take a CPU minutes, not hours


def export_change(
    target: Path,
    change: Change,
    facts: Provenance,
    clip: str | None,
    measure: bool | None,
    search_report: str,
    overwrite: bool,
) -> Exported:
    """Write a delta or a LoRA, read it back, and say in its model card what it lost.

    A delta is compared with its source; what a LoRA lost is what its report says.

    Args:
        target: The file; it appears complete or not at all.
        change: The fine-tune, its base and the form.
        facts: What is told about it.
        clip: The CLIP that measures the drift; None for the usual one.
        measure: Whether to measure the drift; None for where it takes minutes.
        search_report: What ``--drift auto`` measured, in Markdown; else empty.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        UserError: The model cannot be read or does not fit half precision, the disk is full, the place
            cannot be written, the drift cannot be measured as asked, or what was written does not compute as
            the source does.
    """
    refuse_full(target, change_bytes(change))
    evaluator, note = _find_evaluator(change, clip, measure, facts.side)
    model = read_source(change.opened)
    outputs = {"fine-tune": probe(model)}
    expected: Mapping[str, Tensor] = {}
    if change.form == "delta":
        round_change_to_half_(model, change.base)  # in place: source and copy are never in memory together
        expected = probe(model)
    del model
    with staging(target, change.form, overwrite) as stage:
        written = write_change(stage.path, change, facts)
        notice(f"reading {target} back and comparing it with {change.opened.source}")
        outputs["file"] = probe(load_opened(written))
        try:
            refuse_other_outputs(expected, outputs["file"], target)
        except UserError:
            stage.publish(companions(facts, target, change.form))
            raise
        outputs["base"] = probe(load_opened(change.base))
        loss = reconstruct(change.opened, change.base, written, _uncarried_kinds(change))
        if evaluator is not None:
            note = _drift_changes(evaluator, change.opened, written)
        card, report = (_join(_report(loss, outputs, markdown), note) for markdown in (True, False))
        sections = _join(search_report, f"## What this file keeps\n\n{card}")
        size, digest = stage.path.stat().st_size, sha256(stage.path)
        stage.publish(companions(facts, target, change.form, sections))
    return Exported(target, size, digest, _join(search_report, report))


def _join(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))


def _uncarried_kinds(change: Change) -> Mapping[str, str]:
    return layer_names(change.opened)[1] if change.form == "lora" else {}


def _find_evaluator(
    change: Change, clip: str | None, measure: bool | None, side: int
) -> tuple["CheckpointEvaluator | None", str]:
    """What measures the drift; None, and a sentence on why, where nothing does.

    Raises:
        UserError: The user asked for it, and it cannot be had.
    """
    if measure is False:
        return None, ""
    # Loads Lightning and a CLIP's classes, only where they are needed.
    from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator

    if measure is None and side > _SMALL_SIDE and not torch.cuda.is_available():
        return (
            None,
            "The drift measures were not taken; --measure true renders the fit's probe pictures for them.",
        )
    try:
        return CheckpointEvaluator(change.opened, change.base, clip), ""
    except UserError as error:
        if measure or clip:
            if error.option:
                raise
            raise error.of("--measure") from error
        return None, f"The drift measures were not taken: {error.message}."


def _report(loss: Reconstruction, outputs: Mapping[str, Mapping[str, Tensor]], markdown: bool) -> str:
    """What the file keeps of the fine-tune: a table by block and a sentence or two.

    Args:
        loss: What the file loses of the change.
        outputs: What `probe` gave of the ``fine-tune``, of the ``base``, and of the ``file`` on its base.
        markdown: For the model card.
    """
    source, base, file = (outputs[name] for name in ("fine-tune", "base", "file"))
    distances = " and ".join(
        f"the {part}'s output is {_distance(file[part], source[part]):.3%} from the fine-tune's "
        f"(the base's is {_distance(base[part], source[part]):.2%} from it)"
        for part in source
    )
    legend = (
        "Change is ||W - W0|| / ||W0||, where W are the fine-tune's weights and W0 the base's. Lost of it is "
        "||W - W'|| / ||W - W0||, where W' are the weights of the base with this file on it."
    )
    return _join(legend, loss.table(markdown), loss.left_behind(), f"On a fixed input {distances}.")


def _drift_changes(evaluator: "CheckpointEvaluator", opened: OpenedPipeline, written: OpenedPipeline) -> str:
    """How the drift measures of the file differ from the fine-tune's: a Markdown table and what it is of.

    Args:
        evaluator: Renders and measures the fit's probe pictures.
        opened: The fine-tune.
        written: The base with the file on it.
    """
    notice("rendering the fit's probe pictures to measure what the file changes in them")
    whole = evaluator.measure(opened.weights, "the fine-tune")
    file = evaluator.measure(written.weights, "with the file")
    lines = ["| measure | fine-tune | with this file | change |", "| --- | --- | --- | --- |"]
    for name, interval in whole.items():
        before, after = interval.value, file[name].value
        lines.append(f"| {name.replace('_', ' ')} | {before:.3f} | {after:.3f} | {after - before:+.3f} |")
    seeds, prompts = len(evaluator.keys), len(evaluator.roles)
    return (
        f"Drift measures against the base, by {evaluator.clip.name}, on {seeds} of the fit's probe pictures "
        f"({prompts} prompts):\n\n" + "\n".join(lines)
    )


def _distance(output: Tensor, expected: Tensor) -> float:
    return float((output - expected).norm() / expected.norm())
