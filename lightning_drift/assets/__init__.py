"""Where the data that ships with the package lies: the pocket, photos, prompts, SD v1.5's configs."""

from pathlib import Path

_HERE = Path(__file__).parent

POCKET = _HERE / "pocket" / "pipeline"
"""The embedded Stable Diffusion pipeline, a diffusers folder."""

POCKET_CLIP = _HERE / "pocket" / "clip"
"""The CLIP that measures the pocket's pictures."""

POCKET_SUPIR = _HERE / "pocket" / "supir"
"""The pocket's SUPIR: ``supir.safetensors`` and a diffusers folder ``sdxl``."""

PHOTOS = _HERE / "photos"
"""The bundled photo sets, a folder each."""

PROMPTS = _HERE / "prompts"
"""The prompt lists; in a clone ``configs/prompts`` leads there."""

SD15 = _HERE / "sd15"
"""Configs, tokenizer and licence of Stable Diffusion v1.5."""

DEFAULTS = _HERE / "defaults"
"""What the commands run without a configuration: ``fit.yaml``, ``predict.yaml``, ``corridor.yaml``."""
