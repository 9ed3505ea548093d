"""The CLIP that measures where none is named."""

from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline

VIT_L = "openai/clip-vit-large-patch14"


def default_clip(*bases: OpenedPipeline) -> str:
    """``pocket`` if all base models are the embedded one, which no other CLIP knows; else ViT-L/14."""
    return "pocket" if all(base.source == "pocket" for base in bases) else VIT_L
