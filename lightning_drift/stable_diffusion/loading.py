"""The parts of a Stable Diffusion 1.x pipeline, loaded from wherever they lie."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from lightning_drift.assets import POCKET
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import user_path
from lightning_drift.common.out_of_memory import during
from lightning_drift.common.text import listed
from lightning_drift.stable_diffusion.delta_lora import is_change, over_base, recorded_base
from lightning_drift.stable_diffusion.diffusers_folder import (
    pipeline_files,
    read_folder,
    text_encoder_weights,
)
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, OpenedPipeline, check_runs, empty_models
from lightning_drift.stable_diffusion.recorded import checked_recipe, checked_step
from lightning_drift.stable_diffusion.single_file import read_single_file
from lightning_drift.weights.files import Weights, from_state_dict, kind_of, open_weights
from lightning_drift.weights.fill import fill
from lightning_drift.weights.hashes import files_hash
from lightning_drift.weights.hub import fetch_folder
from lightning_drift.weights.torch_file import load_torch_file

FILE_ENDINGS = {".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin"}
"""Endings of the names of single files that may hold a model, in small letters."""
_MOVED = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}

_RAN: set[str] = set()
"""The configs whose models have computed once in this process, as JSON."""


@dataclass
class StableDiffusion:
    """The parts of a Stable Diffusion 1.x pipeline: float32, eval mode, SDPA attention, on the CPU.

    The VAE's parameters need no gradient; what else is trained is the caller's choice.

    Attributes:
        unet: Predicts the noise (or velocity) in latents ``[b, 4, h, w]``.
        text_encoder: Gives the prompt's features ``[b, tokens, hidden]``.
        vae: Between images ``[b, 3, H, W]`` in [-1, 1] and latents.
        tokenizer: Gives the prompt's token ids.
        scheduler_config: The noise schedule, as in ``scheduler_config.json``, ``prediction_type`` included.
        source: What loads the same again: ``pocket``, a hub id after redirects, or an absolute path.
        revision: The hub commit, for a hub id.
        recipe: How it was fine-tuned, where the files tell; ``recipe["base"]`` is the source it began from.
        step: Optimizer steps of the fine-tune, where the files tell.
        weight_files: The weight files, by the name that enters the hash.
    """

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    scheduler_config: dict[str, Any]
    source: str
    revision: str | None = None
    recipe: dict[str, Any] | None = None
    step: int | None = None
    weight_files: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """The sha256 of the weights on disk, computed when first asked for; see ``files_hash``."""
        return files_hash(self.weight_files)


def load_stable_diffusion(
    pipeline: str, revision: str | None = None, base: str | None = None
) -> StableDiffusion:
    """Load the parts of a Stable Diffusion 1.x pipeline as float32, whatever precision they are stored in.

    Strict: a missing, unexpected or misshapen weight is an error that names it. The global generator is not
    touched. From the hub only the safetensors of the needed parts are fetched, and no safety checker.

    Args:
        pipeline: ``pocket``, the tiny model that comes with the package; a diffusers folder; a single
            ``.safetensors`` or ``.ckpt`` file in the LDM layout; a checkpoint of our own fit; a delta or a
            LoRA of our own export; or a hub id. A local path of that name comes before a hub id; a local
            folder called pocket is ``./pocket``.
        revision: Branch, tag or commit, for a hub id.
        base: For a checkpoint of our own fit, the pipeline that gives VAE, tokenizer and schedule, in place
            of the one recorded in it; for a delta or a LoRA, the pipeline that it changes.

    Raises:
        UserError: Nothing of that name, or not a whole Stable Diffusion 1.x model.
    """
    return load_opened(open_pipeline(pipeline, revision, base))


def load_opened(opened: OpenedPipeline) -> StableDiffusion:
    """Build the models of an opened pipeline and read their weights, strictly."""
    with during(f"loading the model {opened.source}"):
        return _load_opened(opened)


def _load_opened(opened: OpenedPipeline) -> StableDiffusion:
    model = empty_opened(opened)
    models: dict[str, Any] = {part: getattr(model, part) for part in PARTS}
    if (described := json.dumps(opened.configs, sort_keys=True)) not in _RAN:
        check_runs(models, opened.source)
        _RAN.add(described)
    for part in PARTS:
        fill(models[part], opened.weights[part], part.replace("_", " "))
    # The one buffer that no file holds: transformers keeps it out of the state dict.
    positions = torch.arange(model.text_encoder.config.max_position_embeddings)
    models["text_encoder"].embeddings.position_ids = positions.expand((1, -1))
    model.vae.requires_grad_(False)
    return model


def empty_opened(opened: OpenedPipeline) -> StableDiffusion:
    """The models of an opened pipeline on the meta device, without their weights.

    Raises:
        UserError: They are of another family, or do not go together.
    """
    models: dict[str, Any] = empty_models(opened.configs, opened.source)
    return StableDiffusion(
        **models,
        tokenizer=_fitting_tokenizer(opened),
        scheduler_config=opened.scheduler_config,
        source=opened.source,
        revision=opened.revision,
        recipe=opened.recipe,
        step=opened.step,
        weight_files=opened.files,
    )


def open_pipeline(pipeline: str, revision: str | None = None, base: str | None = None) -> OpenedPipeline:
    """Find and open the parts that ``load_stable_diffusion`` reads; arguments and errors are the same."""
    return _open(pipeline, revision, base, ())


def _open(pipeline: str, revision: str | None, base: str | None, above: tuple[Path, ...]) -> OpenedPipeline:
    """Open a pipeline that is the base of those above it."""
    if pipeline == "pocket":
        return replace(read_folder(POCKET), source="pocket")
    path = user_path(pipeline)
    try:
        if path.is_dir():
            return read_folder(path)
        if path.exists():
            if (place := path.resolve()) in above:
                raise UserError(f"{path} is recorded as the base of itself; name the right one with base")
            return _read_file(path, base, (*above, place))
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", pipeline) or path.suffix.lower() in FILE_ENDINGS:
        raise UserError(
            f"no such model: {pipeline[:200]} is neither a file nor a folder here, and not a hub id "
            "(owner/name)"
        )
    if pipeline in _MOVED:
        notice(f"{pipeline} was removed from the hub; taking {_MOVED[pipeline]}, the same weights")
        pipeline = _MOVED[pipeline]
    folder = fetch_folder(
        pipeline,
        pipeline_files,
        instead="a local diffusers folder or a single .safetensors file",
        revision=revision,
    )
    return replace(read_folder(folder), source=pipeline, revision=folder.name)


def _read_file(path: Path, base: str | None, above: tuple[Path, ...]) -> OpenedPipeline:
    if kind_of(path) != "torch":
        weights = open_weights(path)
        if is_change(weights):
            return _read_change(weights, path, base, above)
        return read_single_file(weights, path)
    loaded = load_torch_file(path)
    if "recipe" in loaded:
        return _read_fit_checkpoint(loaded, path, base, above)
    return read_single_file(from_state_dict(loaded, path), path)


def _read_fit_checkpoint(
    loaded: Mapping[str, Any], path: Path, base: str | None, above: tuple[Path, ...]
) -> OpenedPipeline:
    """The trained UNet and text encoder of our own fit over the base that its recipe names."""
    recipe = checked_recipe(loaded["recipe"], str(path)) or {}
    step = checked_step(loaded.get("global_step"), str(path))
    name = base or recipe.get("base")
    if not name:
        raise UserError(f"{path} does not record its base pipeline; name it with base")
    revision = None if base else recipe.get("base_revision")
    opened = open_base(str(path), name, revision, "whose VAE and tokenizer it needs", above)
    weights = from_state_dict(loaded, path)
    trained = {
        "unet": weights.under("unet.", "unet"),
        "text_encoder": text_encoder_weights(weights.under("text_encoder.")),
    }
    if stray := [key for key in weights.shapes if not key.startswith(tuple(f"{part}." for part in trained))]:
        raise UserError(
            f"{path} holds weights that belong neither to the UNet nor to the text encoder: {listed(stray)}"
        )
    return replace(
        opened,
        source=str(path.resolve()),
        revision=None,
        weights={**opened.weights, **trained},
        files={path.name: path},
        recipe=recipe,
        step=step,
        base=opened,
    )


def _read_change(weights: Weights, path: Path, base: str | None, above: tuple[Path, ...]) -> OpenedPipeline:
    """A base and what a fine-tune changed of it: a delta or a LoRA of our own export."""
    name, revision = recorded_base(weights, path)
    beside = path.parent / name  # where a base that had no public name may have been copied
    source = base or (str(beside) if beside.exists() else name)
    opened = open_base(str(path), source, None if base else revision, "which it needs", above)
    return over_base(opened, weights, path)


def open_base(
    source: str, name: str, revision: str | None, purpose: str, above: tuple[Path, ...] = ()
) -> OpenedPipeline:
    """Open the pipeline that a model was fine-tuned from.

    Args:
        source: The fine-tune.
        name: Its base: what ``load_stable_diffusion`` takes.
        revision: Branch, tag or commit of the base, for a hub id.
        purpose: A clause on what the base is needed for, for the message.
        above: The files that are being opened over it.

    Raises:
        UserError: The base cannot be opened.
    """
    try:
        return _open(name, revision, None, above)
    except UserError as error:
        raise UserError(
            f"{source} was fine-tuned from {name[:200]}, {purpose}, but that cannot be "
            f"loaded: {error}. If it lies elsewhere, name it with base"
        ) from error


def _fitting_tokenizer(opened: OpenedPipeline) -> CLIPTokenizer:
    """The tokenizer, its prompt length no more than the text encoder's positions."""
    text, tokenizer = opened.configs["text_encoder"], opened.tokenizer
    size, positions = text.get("vocab_size", 49408), text.get("max_position_embeddings", 77)
    if len(tokenizer) > size:
        raise UserError(
            f"the tokenizer of {opened.source} has {len(tokenizer)} tokens, its text encoder only "
            f"{size}; they do not belong together"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer
