"""What is no plain LoRA of an SDXL model, told by the names of its tensors."""

import re

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import listed
from lightning_drift.weights.files import Weights

_KINDS = {
    "a LoHa": r"\.hada_",
    "a LoKr": r"\.lokr_",
    "a DoRA": r"\.(dora_scale|lora_magnitude_vector)\b",
    "an OFT": r"\.oft_|\.oft\.",
    "an (IA)3": r"\.on_input$",
    "a GLoRA": r"\.[ab][12]\.weight$",
    "a file of full differences": r"\.(diff|diff_b|set_weight|w_norm|b_norm)$",
    "a LoRA with weights beside low rank (biases or embeddings)": (
        r"\.lora_(up|down|A|B)\.bias$|\.modules_to_save\.|\.bundle_emb|^bundle_emb|^clip_[lg]$"
    ),
}
"""Adapters that are not read, by what one of their tensors is called."""

_FAMILIES = {
    "a Flux or Stable Diffusion 3 model": (
        r"(double|single|joint)_blocks|single_transformer_blocks|^transformer\.|^lora_transformer_|^lora_te3_"
        r"|^text_encoder_3\."
    ),
    "a Stable Diffusion 1.x or 2.x model": (
        r"^lora_te_|(down_blocks[._]0[._]attentions|input_blocks[._][12][._]1[._])"
    ),
    "an SDXL refiner, Wan, Qwen-Image or another model": r"^diffusion_model\.(blocks|layers|transformer)",
}
"""Bases that are not SDXL, by what a LoRA for them calls a layer."""


def refuse_other_adapters(weights: Weights) -> None:
    """Refuse adapters that are no LoRA.

    Raises:
        UserError: It is one; the message says which.
    """
    for kind, pattern in _KINDS.items():
        if found := next((key for key in weights.shapes if re.search(pattern, key)), None):
            raise UserError(
                f"{weights.origin} is {kind} ({found}), which is not read; give a plain LoRA or LoCon"
            )


def refuse_stray(weights: Weights, stray: list[str]) -> None:
    """Refuse a LoRA with tensors that belong to no layer of the base.

    Raises:
        UserError: It is one; the message says what it is made for, where that shows.
    """
    if not weights.shapes:
        raise UserError(f"{weights.origin} holds nothing")
    if not stray:
        return
    for family, pattern in _FAMILIES.items():
        if found := next((key for key in stray if re.search(pattern, key)), None):
            raise UserError(f"{weights.origin} is made for {family} ({found}); give a LoRA of an SDXL model")
    raise UserError(
        f"{weights.origin} is no LoRA of this base: {len(stray)} of its {len(weights.shapes)} tensors belong "
        f"to no layer of it: {listed(stray)}"
    )
