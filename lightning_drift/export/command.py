"""The ``export`` command: a fine-tune as a diffusers folder, one file for other programs, or a small one."""

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning_drift.common.command_line import TextParser, mark_texts, plain, text_options
from lightning_drift.common.ends import Ended, begin
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.common.numbers import shown, whole
from lightning_drift.common.text import command, printable
from lightning_drift.export.change import export_change
from lightning_drift.export.delta_lora import Change
from lightning_drift.export.exported import Exported
from lightning_drift.export.lora import RANK
from lightning_drift.export.model_card import companions
from lightning_drift.export.provenance import check_recipe, provenance
from lightning_drift.export.target import (
    CHANGES,
    default_title,
    destination,
    names_file,
    refuse_occupied,
    target_path,
)
from lightning_drift.export.whole_model import export_whole
from lightning_drift.stable_diffusion.drift_dial import EXAMPLE, Drift, read_drift
from lightning_drift.stable_diffusion.interpolation import base_of, interpolated, refuse_untrained
from lightning_drift.stable_diffusion.loading import open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline

_MOST_RANK = 2**20


def export(
    ckpt_path: str,
    to: str,
    format: Literal["diffusers", "safetensors", "delta", "lora"] = "safetensors",
    title: str | None = None,
    author: str | None = None,
    description: str | None = None,
    base: str | None = None,
    drift: float | str = 1.0,
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
            goes into it, named after the title. A name that ends in ``.safetensors`` is the file itself.
        format: ``safetensors`` is one file in the LDM layout for A1111, Forge and ComfyUI; ``diffusers`` is a
            folder for ``StableDiffusionPipeline.from_pretrained``. ``delta`` holds the differences from the
            base in half precision, and lightning-drift reads it together with the base; ``lora`` holds them
            cut down to a rank, for ComfyUI, A1111 and diffusers.
        title: The model's name; by default made of the run's name and the steps.
        author: Your name in the metadata and the model card.
        description: One sentence about the model, for the metadata and the model card.
        base: The base pipeline, if it no longer lies where the checkpoint says.
        drift: Export the weights W0 + drift (W - W0), where W are the model's and W0 its base's: 0 is the
            base, 1 the model, and up to 1.5 it goes on in the same direction. ``unet=1,text_encoder=0.5``
            turns each part by itself; one that is left out stays at 1. ``auto`` finds the drift at which
            the probe pictures of a fit with ClipDrift are still dreaming and have most of the photos, for
            both parts and for each, and reports what it measured.
        clip: The CLIP that measures for ``--drift auto`` and ``--measure``: the same as the fit's
            clip_drift.clip. By default ``pocket`` for the embedded model and else
            openai/clip-vit-large-patch14.
        rank: For a LoRA: how many directions each layer keeps; 32 by default.
        measure: For a delta or a LoRA: render the fit's probe pictures with the fine-tune and with the file,
            and report how the drift measures change. By default where ClipDrift measured the checkpoint and
            it takes minutes: on a GPU, or with a model as small as the pocket.
        overwrite: Replace an earlier export of the same name.

    Returns:
        Where it is, its size, its hash and what was measured.

    Raises:
        UserError: The model cannot be read or does not fit half precision; the place is taken, full or
            forbidden; or what was written does not compute as the source does.
    """
    dial = _check_options(format, drift, clip, rank, measure)
    title, author, description = (
        _checked_text(text, option, length)
        for text, option, length in (
            (title, "--title", 200),
            (author, "--author", 200),
            (description, "--description", 2000),
        )
    )
    place = destination(to, format)
    ckpt_path = _source(ckpt_path, "--ckpt_path")
    base = None if base is None else _source(base, "--base")
    opened, search_report = open_pipeline(ckpt_path, base=base), ""
    check_recipe(opened)
    if dial is not None:
        refuse_untrained(opened, dial, "--drift")
    origin = base_of(opened, base) if dial != 1 or format in CHANGES else None
    if title or names_file(place) or format == "diffusers":  # before a search of minutes
        _target(place, opened, title, format, overwrite)
    if origin is not None:
        opened, search_report = _at_drift(opened, origin, dial, clip)
    title = title or default_title(opened)
    target = _target(place, opened, title, format, overwrite)
    facts = provenance(opened, title, author, description)
    if origin is not None and format in CHANGES:
        change = Change(opened, origin, format, rank or RANK)
        return export_change(target, change, facts, clip, measure, search_report, overwrite)
    return export_whole(target, opened, format, facts, search_report, overwrite)


def _source(value: str, option: str) -> str:
    """What names a model: a path, a hub id or ``pocket``; ``~`` is the home folder."""
    path = user_path(value, option)
    return str(path) if value.startswith("~") else value


def _checked_text(text: str | None, option: str, length: int) -> str | None:
    """A text for metadata and model card: one line of a bounded length.

    Raises:
        UserError: It is longer, or holds a line break or another control character.
    """
    if text is None:
        return None
    if len(text) > length:
        raise UserError(f"{shown(text)} has {len(text):,} characters; give at most {length}", option)
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise UserError(f"{shown(text)} holds a line break or a control character; give one line", option)
    return text.strip() or None


def _target(place: Path, opened: OpenedPipeline, title: str | None, form: str, overwrite: bool) -> Path:
    """The path of the export, where nothing else lies.

    Raises:
        UserError: Something else lies there.
    """
    title = title or default_title(opened)
    target = target_path(place, title, form)
    texts = companions(provenance(opened, title, None, None), target, form)
    refuse_occupied(target, opened.source, form, overwrite, texts)
    return target


def _check_options(
    form: str, drift: float | str, clip: str | None, rank: int | None, measure: bool | None
) -> Drift | None:
    """Refuse options that would have no effect, and values out of range.

    Returns:
        The drift; None where it is to be found.
    """
    if clip is not None and drift != "auto" and (form not in CHANGES or measure is False):
        raise UserError(
            "it measures for --drift auto and --measure alone; add one, or leave it out", "--clip"
        )
    if measure and form not in CHANGES:
        raise UserError("a whole model loses nothing to measure; leave it out", "--measure")
    if rank is not None and form != "lora":
        raise UserError("only a LoRA has a rank; add --format lora, or leave it out", "--rank")
    if rank is not None and whole(rank, "--rank", high=_MOST_RANK) < 1:
        raise UserError(f"{rank} keeps nothing; give 1 or more", "--rank")
    if drift == "auto":
        return None
    if isinstance(drift, str) and "=" not in drift:
        raise UserError(
            f"{shown(drift)} is not a number or 'auto', nor one for each part, such as {EXAMPLE}",
            "--drift",
        )
    return read_drift(drift, "--drift")


def _at_drift(
    opened: OpenedPipeline, base: OpenedPipeline, drift: Drift | None, clip: str | None
) -> tuple[OpenedPipeline, str]:
    """The pipeline at a drift, its recipe naming its base; and what was measured to find the drift."""
    search_report = ""
    if drift is None:
        # Loads Lightning and a CLIP's classes, only where they are needed.
        from lightning_drift.export.drift_search import search

        result = search(opened, base, clip)
        drift, search_report = result.drift, f"## Where it still dreams\n\n{result.markdown}"
    recipe = opened.recipe or {"base": base.source}
    return interpolated(replace(opened, recipe=recipe), base, drift), search_report


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lightning-drift export`` with its command line."""
    about, _, _ = (export.__doc__ or "").partition("\n")
    parser = TextParser(prog="lightning-drift export", description=about)
    parser.add_function_arguments(export, as_positional=False, skip={"overwrite"})
    parser.add_argument(
        "--overwrite", action="store_true", help="Replace an earlier export of the same name."
    )
    words = list(sys.argv[1:] if argv is None else argv)
    options = plain(parser.parse_args(mark_texts(words, text_options(export).get)).as_dict())
    begin()
    try:
        # Its report is Markdown of several lines.
        print("\n".join(map(printable, str(export(**options)).split("\n"))))
    except Ended as end:
        again = command(["export", *words])
        end.reached = end.reached or f"before the export was finished; start it again with: {again}"
        raise
    return 0
