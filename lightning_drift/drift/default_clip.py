"""The CLIP that measures where none is named."""

from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline

VIT_L = "openai/clip-vit-large-patch14"
VIT_L_WEIGHTS = 427_616_513
"""Its parameters."""


def default_clip(*bases: OpenedPipeline) -> str:
    """``pocket`` if all base models are the embedded one, which no other CLIP knows; else ViT-L/14."""
    return "pocket" if all(base.source == "pocket" for base in bases) else VIT_L


VIT_L_CONFIG = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
"""The shapes of `VIT_L`, for a forecast before it is fetched."""

DINO_B_CONFIG = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 14,
    "image_size": 224,
}
"""The shapes of facebook/dinov2-base, likewise for an image model, with what its preprocessing gives it."""
