"""What an export tells about its model: title, author, base, recipe, and the day it was made."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown, whole
from lightning_drift.stable_diffusion.drift_dial import dial_title, from_recipe
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, OpenedPipeline
from lightning_drift.stable_diffusion.sd15 import sd15_models


@dataclass(frozen=True)
class Provenance:
    """What is told about an exported model.

    Attributes:
        title: Its name.
        author: Who made it, if they wish to be named.
        description: What it is, if its maker says.
        base: The base model's hub id, ``pocket``, or the name of its file or folder.
        recipe: The fine-tune's recipe; empty for a base model.
        step: Optimizer steps of the fine-tune.
        prediction_type: ``epsilon`` or ``v_prediction``.
        side: The native picture size in pixels.
        is_sd15: Whether its weights have SD v1.5's shape, as only Stable Diffusion 1.x models have.
        date: The day of the export, as YYYY-MM-DD.
    """

    title: str
    author: str | None
    description: str | None
    base: str
    recipe: Mapping[str, Any]
    step: int | None
    prediction_type: str
    side: int
    is_sd15: bool
    date: str

    @property
    def prompt(self) -> str | None:
        """The instance prompt of the fine-tune, as one line."""
        prompt = self.recipe.get("instance_prompt")
        return one_line(prompt) or None if isinstance(prompt, str) else None

    @property
    def licence(self) -> str:
        """The id that model hubs use; whatever has SD v1.5's shape derives from a model under OpenRAIL-M."""
        if self.is_sd15:
            return "creativeml-openrail-m"
        return "apache-2.0" if self.base == "pocket" else "other"

    @property
    def base_name(self) -> str:
        """The base model in words."""
        return "lightning-drift's pocket model" if self.base == "pocket" else self.base

    @property
    def about(self) -> str:
        """One sentence: what was done to what."""
        if not self.recipe:
            return f"Exported from {self.base_name} without fine-tuning."
        steps = f", {self.step} steps" if self.step is not None else ""
        dialled = self.recipe.get("drift")
        drift = f", its drift dialled to {dial_title(from_recipe(dialled))}" if dialled is not None else ""
        return f"{self.base_name}, modified by full DreamBooth fine-tuning{steps}{drift}."


def check_recipe(opened: OpenedPipeline) -> None:
    """Refuse a recipe that metadata cannot hold: it comes from a file that anyone may have made.

    Raises:
        UserError: It holds something beside texts, numbers, lists and mappings, or no numbers where numbers
            are due.
    """
    recipe = opened.recipe or {}
    where = f"the recipe in {opened.source} is damaged"
    try:
        json.dumps(recipe, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: it holds something that is neither text nor number") from error
    for name in ("base", "base_revision"):
        if not isinstance(recipe.get(name), str | None):
            raise UserError(f"{where}: its {name} is {shown(recipe[name])}, which is no text")
    if "drift" in recipe:
        try:
            from_recipe(recipe["drift"])
        except ValueError as error:
            raise UserError(f"{where}: its drift is {shown(recipe['drift'])}, which is no number") from error
    if opened.step is not None:
        try:
            whole(opened.step, "", 0)
        except UserError as error:
            raise UserError(f"{where}: its step is {shown(opened.step)}, which is no number") from error


def one_line(text: str, length: int = 2000) -> str:
    """A text from a file as one line of a bounded length, without control characters."""
    plain = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text[: 4 * length]
    )
    words = " ".join(plain.split())
    return words if len(words) <= length else words[:length] + "…"


def provenance(opened: OpenedPipeline, title: str, author: str | None, description: str | None) -> Provenance:
    """What is known of a pipeline, with its maker's words; nothing of it names a folder of this machine."""
    recipe = dict(opened.recipe or {})
    base = _public_name(recipe.get("base") or opened.source)
    if recipe:
        recipe["base"] = base
    factor = 2 ** (len(opened.configs["vae"]["block_out_channels"]) - 1)
    return Provenance(
        title=title,
        author=author,
        description=description,
        base=base,
        recipe=recipe,
        step=opened.step,
        prediction_type=opened.scheduler_config.get("prediction_type", "epsilon"),
        side=int(opened.configs["unet"]["sample_size"]) * factor,
        is_sd15=_has_sd15_shape(opened),
        date=datetime.now(UTC).date().isoformat(),
    )


def _public_name(source: str) -> str:
    """A base model's name without the folders of the machine it lies on."""
    return one_line(Path(source).name if Path(source).is_absolute() else source, 300)


def _has_sd15_shape(opened: OpenedPipeline) -> bool:
    """Whether every weight has the shape that it has in SD v1.5, or it as a convolution over one pixel."""
    for part in PARTS:
        usual = {name: tuple(tensor.shape) for name, tensor in sd15_models()[part].state_dict().items()}
        shapes = opened.weights[part].shapes
        if shapes.keys() != usual.keys():
            return False
        if any(_without_ones(shapes[name]) != _without_ones(shape) for name, shape in usual.items()):
            return False
    return True


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
