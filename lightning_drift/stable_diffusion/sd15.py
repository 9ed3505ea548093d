"""Stable Diffusion v1.5's own configs and models, which come with the package."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lightning_drift.assets import SD15
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, empty_models


def sd15_config(part: str) -> dict[str, Any]:
    """SD v1.5's config of a part: unet, text_encoder, vae or scheduler."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    config: dict[str, Any] = json.loads((SD15 / part / name).read_text())
    return config


@lru_cache(maxsize=1)
def sd15_models() -> Mapping[str, Any]:
    """SD v1.5's models on the meta device: configs, names and shapes without weights."""
    return empty_models({part: sd15_config(part) for part in PARTS}, "sd15")
