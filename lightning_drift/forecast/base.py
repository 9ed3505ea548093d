"""A base model's shapes, from its configs and headers, before any weight is read or fetched."""

from dataclasses import dataclass
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.stable_diffusion.loading import StableDiffusion, empty_opened, open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, empty_models
from lightning_drift.stable_diffusion.sd15 import sd15_config
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer
from lightning_drift.weights.hub import from_cache, not_cached


@dataclass(frozen=True)
class Base:
    """A base model without weights.

    Attributes:
        model: Its parts, on the meta device.
        to_fetch: The hub repository that the cache lacks; its shapes are taken to be SD v1.5's.
    """

    model: StableDiffusion
    to_fetch: str | None = None


def find_base(pipeline: str, base: str | None = None) -> Base:
    """Find a base without reaching the hub; arguments are those of ``load_stable_diffusion``.

    Raises:
        UserError: It is here, and no whole Stable Diffusion 1.x model; or it is no hub id either.
    """
    with from_cache():
        try:
            return Base(empty_opened(open_pipeline(pipeline, base=base)))
        except UserError as error:
            lacking = not_cached(error)
            if lacking is None:
                raise
    configs = {part: sd15_config(part) for part in PARTS}
    models: dict[str, Any] = empty_models(configs, "sd15")
    model = StableDiffusion(
        **models, tokenizer=sd15_tokenizer(), scheduler_config=sd15_config("scheduler"), source=pipeline
    )
    return Base(model, lacking)
