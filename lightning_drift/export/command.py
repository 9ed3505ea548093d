"""The ``export`` command: a fine-tune as a diffusers folder, one file for other programs, or a small one."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.text import byte_size
from lightning_drift.export.check import _compare, _has_sd15_shape, probe, refuse_beyond_half
from lightning_drift.export.delta_lora import SMALL, drift_changes, report, small_bytes, write_small
from lightning_drift.export.diffusers_folder import write_folder
from lightning_drift.export.lora import RANK
from lightning_drift.export.model_card import Provenance, companions, modelspec, public_base
from lightning_drift.export.single_file import described, is_plain_sd15, ldm_tensors, write_half
from lightning_drift.stable_diffusion.interpolation import base_of, check_drift, interpolated
from lightning_drift.stable_diffusion.loading import (
    StableDiffusion,
    load_opened,
    load_stable_diffusion,
    open_pipeline,
)
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, OpenedPipeline
from lightning_drift.stable_diffusion.sampling import native_size
from lightning_drift.weights.hashes import sha256

if TYPE_CHECKING:
    from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator

_SMALL_SIDE = 128  # pixels; the pictures of such a model take a CPU minutes, not hours
_MARGIN = 64 * 2**20  # bytes left free beside the export


@dataclass(frozen=True)
class Exported:
    """What was written: where, its size in bytes, its hash in hex, and what was measured."""

    path: Path
    size: int
    hash: str
    report: str = ""

    def __str__(self) -> str:
        wrote = f"wrote {self.path} ({byte_size(self.size)}), model hash {self.hash[:10]}"
        return f"{self.report}\n\n{wrote}" if self.report else wrote


def export(
    ckpt_path: str,
    to: str,
    format: Literal["diffusers", "safetensors", "delta", "lora"] = "safetensors",
    title: str | None = None,
    author: str | None = None,
    description: str | None = None,
    base: str | None = None,
    drift: float | Literal["auto"] = 1.0,
    clip: str | None = None,
    rank: int | None = None,
    measure: bool | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a fine-tuned model in half precision for other programs, read it back and compare it.

    A model card, a notice of what was changed and, for Stable Diffusion, its licence go with it.

    Args:
        ckpt_path: The model: a checkpoint of a fit, or anything else that ``--model.pipeline`` takes.
        to: Folder to write to. With ``--format diffusers`` it becomes the pipeline's folder; else the file
            goes into it, named after the title; a name in ``.safetensors`` is the file's own.
        format: ``safetensors`` is one file in the LDM layout for A1111, Forge and ComfyUI; ``diffusers`` is a
            folder for ``StableDiffusionPipeline.from_pretrained``. ``delta`` holds the differences from the
            base in half precision and is read by lightning-drift together with the base; ``lora`` holds them
            cut down to a rank, for ComfyUI, A1111 and diffusers.
        title: The model's name; by default made of the run's name and the steps.
        author: Your name in the metadata and the model card.
        description: One sentence about the model, for the metadata and the model card.
        base: The base pipeline, if it no longer lies where the checkpoint says.
        drift: Export W0 + drift (W - W0) instead of the model W, with the base's W0: 0 is the base, 1 the
            model, and up to 1.5 it goes on the way it went. ``auto`` finds the largest at which the probe
            pictures of a fit with ClipDrift are still dreaming, and says what it measured.
        clip: The CLIP that judges for ``--drift auto`` and ``--measure``, the one of the fit's
            clip_drift.clip; by default ``pocket`` for the embedded model and else
            openai/clip-vit-large-patch14.
        rank: Of a LoRA: how many directions each layer keeps; 32 by default.
        measure: Of a delta or a LoRA: render the fit's probe pictures with and without the loss, and say how
            the drift measures change. By default where the checkpoint was measured by ClipDrift and it takes
            minutes: on a GPU, or with a model as small as the pocket.
        overwrite: Replace an earlier export of the same name.

    Returns:
        Where it is, its size and its hash.

    Raises:
        UserError: The model cannot be read or does not fit half precision; the place is taken, full or
            forbidden; or what was written does not compute as the source does.
    """
    if clip is not None and drift != "auto" and (format not in SMALL or measure is False):
        raise UserError("--clip judges for --drift auto and --measure; add one, or leave it out")
    if measure and format not in SMALL:
        raise UserError("--measure is of a delta or a LoRA, which lose something; leave it out")
    if drift != "auto":
        check_drift(drift, "--drift")
    rank = _rank(rank, format)
    parts = checkpoint = open_pipeline(ckpt_path, base=base)
    origin = base_of(parts, base) if drift != 1 or format in SMALL else None
    measured = ""
    if origin is not None and drift == "auto":
        from lightning_drift.export.drift_search import (
            search,
        )  # loads Lightning and a CLIP's classes, for this alone

        found = search(parts, origin, clip)
        drift, measured = found.drift, f"## Where it still dreams\n\n{found.markdown}"
    if origin is not None and drift != "auto":
        parts = interpolated(replace(parts, recipe=parts.recipe or {"base": origin.source}), origin, drift)
    title = title or default_title(parts)
    target = _target(Path(to).expanduser(), title, format)
    _refuse_occupied(target, format, overwrite)
    if target.resolve() == Path(parts.source).resolve():
        raise UserError(f"{target} is the model to export itself; choose another --to or --title")
    source = parts.source
    notice(f"reading {source}")
    model = load_opened(parts)
    small = format in SMALL
    size = sum(_half_bytes(getattr(model, part)) for part in PARTS)
    _refuse_full(target, small_bytes(parts, format, rank) if small else size)
    for part in PARTS:
        refuse_beyond_half(part, getattr(model, part).state_dict(), source)
    facts = _provenance(model, title, author, description)
    expected = probe(model)
    if origin is not None and small:
        bench = _bench(checkpoint, origin, clip, measure, native_size(model))
        del model
        return _export_small(target, parts, origin, facts, format, rank, expected, measured, bench)
    texts = companions(facts, target, format, measured)
    try:
        if format == "safetensors":
            metadata = {**modelspec(facts), **({} if is_plain_sd15(model) else described(model))}
            write_half(target, ldm_tensors(model), metadata)
            _write_texts(target.parent, texts)
        else:
            write_folder(target, model, texts)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    del model, parts, origin  # so that source and copy are not in memory together
    notice(f"reading {target} back and comparing it with {source}")
    written = load_stable_diffusion(str(target))
    _compare(expected, probe(written), target)
    written_bytes = sum(path.stat().st_size for path in written.weight_files.values())
    return Exported(target, written_bytes, written.hash, measured)


def _export_small(
    target: Path,
    parts: OpenedPipeline,
    base: OpenedPipeline,
    facts: Provenance,
    form: str,
    rank: int,
    expected: Mapping[str, Tensor],
    measured: str,
    bench: "CheckpointEvaluator | str",
) -> Exported:
    """Write a delta or a LoRA, measure it, and say in its model card what it lost."""
    try:
        small = write_small(target, parts, base, facts, form, rank)
        found = probe(load_opened(small.written))
        if form == "delta":
            _compare(expected, found, target)
        outputs = expected, probe(load_opened(base)), found
        changes = bench if isinstance(bench, str) else drift_changes(bench, parts, small.written)
        texts = [report(small, *outputs, markdown=markdown) for markdown in (False, True)]
        texts = ["\n\n".join(filter(None, [text, changes])) for text in texts]
        kept = f"## What this file keeps\n\n{texts[1]}"
        sections = "\n\n".join(filter(None, [measured, kept]))
        _write_texts(target.parent, companions(facts, target, form, sections))
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    told = "\n\n".join(filter(None, [measured, texts[0]]))
    return Exported(target, target.stat().st_size, sha256(target), told)


def _bench(
    checkpoint: OpenedPipeline, base: OpenedPipeline, clip: str | None, measure: bool | None, side: int
) -> "CheckpointEvaluator | str":
    """What measures the drift, or why none is; an error only where it was asked for."""
    if measure is False:
        return ""
    from lightning_drift.drift.checkpoint_evaluator import (
        CheckpointEvaluator,  # loads Lightning and a CLIP's classes, for this alone
    )

    if measure is None and side > _SMALL_SIDE and not torch.cuda.is_available():
        return "The drift measures were not taken; --measure true renders the fit's probe pictures for them."
    try:
        return CheckpointEvaluator(checkpoint, base, clip)
    except UserError as error:
        if measure or clip:
            raise UserError(f"{error}", "--measure") from error
        return f"The drift measures were not taken: {error}."


def _write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())


def _rank(rank: int | None, form: str) -> int:
    if rank is not None and form != "lora":
        raise UserError("--rank is of a LoRA; add --format lora, or leave it out")
    if rank is not None and rank < 1:
        raise UserError(f"{rank} keeps nothing; give 1 or more", "--rank")
    return rank or RANK


def default_title(parts: OpenedPipeline) -> str:
    """``<subject>-<run>-step01200`` of a checkpoint in a run folder, else the name of the file or folder.

    A drift that was dialled is named too: ``<subject>-<run>-step01200-drift0.8``.
    """
    path = Path(parts.source)
    step = f"step{parts.step:05d}" if parts.step is not None else None
    drift = f"-drift{parts.recipe['drift']:g}" if parts.recipe and "drift" in parts.recipe else ""
    if step and path.parent.name == "checkpoints":
        return "-".join((*path.parts[-4:-2], step)) + drift
    name = path.stem if path.suffix in {".ckpt", ".safetensors"} else path.name
    name = f"{name}-{step}" if step and "step" not in name else name
    return name if drift in name else name + drift


def _target(to: Path, title: str, form: str) -> Path:
    if form == "diffusers":
        if to.suffix in {".safetensors", ".ckpt"}:
            raise UserError(f"--to {to} is a file's name, but --format diffusers writes a folder")
        return to
    if to.suffix == ".safetensors":
        return to
    slug = re.sub(r"[^\w.+-]+", "-", title).strip("-.") or "model"
    return to / (f"{slug}.{form}.safetensors" if form in SMALL else f"{slug}.safetensors")


def _refuse_occupied(target: Path, form: str, overwrite: bool) -> None:
    if form != "diffusers":
        if target.is_dir():
            raise UserError(f"{target} is a folder; choose another --to")
        if target.exists() and not overwrite:
            raise UserError(
                f"{target} exists; choose another --to or --title, or replace it with --overwrite"
            )
        return
    if target.is_file():
        raise UserError(f"{target} is a file; --format diffusers needs a folder")
    if target.is_dir() and any(target.iterdir()):
        if not (target / "model_index.json").is_file():
            raise UserError(f"{target} holds other files; choose an empty or new folder for the pipeline")
        if not overwrite:
            raise UserError(f"{target} holds a pipeline; choose another --to, or replace it with --overwrite")


def _refuse_full(target: Path, size: int) -> None:
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < size + _MARGIN:
        raise UserError(
            f"no room for {target}: it needs {byte_size(size + _MARGIN)} and {byte_size(free)} are free"
        )


def _half_bytes(model: torch.nn.Module) -> int:
    return sum(2 * tensor.numel() for tensor in model.state_dict().values())


def _provenance(
    model: StableDiffusion, title: str, author: str | None, description: str | None
) -> Provenance:
    recipe = dict(model.recipe or {})
    base = public_base(recipe.get("base") or model.source)
    if recipe:
        recipe["base"] = base
    return Provenance(
        title=title,
        author=author,
        description=description,
        base=base,
        recipe=recipe,
        step=model.step,
        prediction_type=model.scheduler_config.get("prediction_type", "epsilon"),
        side=native_size(model),
        is_sd15=_has_sd15_shape(model),
        date=datetime.now(UTC).date().isoformat(),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lightning-drift export`` with its command line."""
    about, _, _ = (export.__doc__ or "").partition("\n")
    parser = ArgumentParser(prog="lightning-drift export", description=about)
    parser.add_function_arguments(export, as_positional=False, skip={"overwrite"})
    parser.add_argument(
        "--overwrite", action="store_true", help="Replace an earlier export of the same name."
    )
    print(export(**parser.parse_args(argv).as_dict()))
    return 0
