"""Exporting a whole model in half precision: one file for other programs, or a diffusers folder."""

from pathlib import Path

import torch

from lightning_drift.common.errors import notice
from lightning_drift.export.check import probe_whole, read_source, refuse_other_outputs, round_to_half_
from lightning_drift.export.diffusers_folder import write_folder
from lightning_drift.export.exported import Exported
from lightning_drift.export.model_card import companions, modelspec
from lightning_drift.export.provenance import Provenance
from lightning_drift.export.single_file import is_plain_sd15, ldm_tensors, parts_metadata, write_half
from lightning_drift.export.staging import staging
from lightning_drift.export.target import refuse_full
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_stable_diffusion
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, OpenedPipeline


def export_whole(
    target: Path, opened: OpenedPipeline, form: str, facts: Provenance, search_report: str, overwrite: bool
) -> Exported:
    """Write a whole model, read it back, and compare it with its source.

    Args:
        target: The file or folder; it appears complete or not at all.
        opened: The model.
        form: ``safetensors`` or ``diffusers``.
        facts: What is told about it.
        search_report: What ``--drift auto`` measured, in Markdown; else empty.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        UserError: The model cannot be read or does not fit half precision, the disk is full, the place
            cannot be written, or what was written does not compute as the source does.
    """
    refuse_full(target, _half_size(opened))
    model = read_source(opened)
    with staging(target, form, overwrite) as stage:
        _write(stage.path, model, form, facts)
        round_to_half_(model)  # in place: source and copy are never in memory together
        expected = probe_whole(model)
        del model
        notice(f"reading {target} back and comparing it with {opened.source}")
        written = load_stable_diffusion(str(stage.path))
        outputs = probe_whole(written)
        size = sum(path.stat().st_size for path in written.weight_files.values())
        done = Exported(target, size, written.hash, search_report)
        stage.publish(companions(facts, target, form, search_report))
        refuse_other_outputs(expected, outputs, target)
    return done


def _half_size(opened: OpenedPipeline) -> int:
    """Bytes of all weights in float16."""
    shapes = [shape for part in PARTS for shape in opened.weights[part].shapes.values()]
    return sum(2 * torch.Size(shape).numel() for shape in shapes)


def _write(path: Path, model: StableDiffusion, form: str, facts: Provenance) -> None:
    if form == "diffusers":
        write_folder(path, model)
        return
    metadata = modelspec(facts)
    if not is_plain_sd15(model):
        metadata |= parts_metadata(model)
    write_half(path, ldm_tensors(model), metadata)
