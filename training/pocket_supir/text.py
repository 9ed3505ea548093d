"""The two text encoders of the pocket's SUPIR: the pipeline's own, and the text tower of its CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lightning_drift.assets import POCKET, POCKET_CLIP
from lightning_drift.supir.network.conditioning import BIGG_PAD, SIZE, TextEncoders, size_embedding, token_ids
from lightning_drift.supir.network.denoiser import Conditioning
from training.pocket_supir.models import UNET


def pocket_text_encoders() -> TextEncoders:
    """Both encoders, frozen, fp32: trained apart from different seeds, as SDXL's are."""
    small = CLIPTextModel.from_pretrained(str(POCKET / "text_encoder"), torch_dtype=torch.float32)
    clip: Any = CLIPModel.from_pretrained(str(POCKET_CLIP), torch_dtype=torch.float32)
    large: Any = CLIPTextModelWithProjection(clip.config.text_config)
    inner = large.text_model if hasattr(large, "text_model") else large
    inner.load_state_dict(clip.text_model.state_dict())
    large.text_projection.load_state_dict(clip.text_projection.state_dict())
    tokenizer = CLIPTokenizer.from_pretrained(str(POCKET / "tokenizer"))
    encoders = TextEncoders(small, large, tokenizer, UNET["addition_time_embed_dim"])
    return encoders.eval().requires_grad_(False)


@torch.no_grad()
def condition(encoders: TextEncoders, texts: Sequence[str]) -> Conditioning:
    """What `TextEncoders` makes of each text, for a batch.

    Args:
        encoders: Both text encoders.
        texts: The n prompts.

    Returns:
        Context (n, 32, 256) and vector (n, 224), on the encoders' device.
    """
    tokenizer = encoders.tokenizer
    length, end = int(tokenizer.model_max_length), int(tokenizer.eos_token_id)
    rows = [[int(tokenizer.bos_token_id), *token_ids(tokenizer, text, "")[0], end] for text in texts]
    device = encoders.clip_l.embeddings.token_embedding.weight.device

    def padded(pad: int) -> torch.Tensor:
        return torch.tensor([row + [pad] * (length - len(row)) for row in rows], device=device)

    small = encoders.clip_l(padded(end), output_hidden_states=True)
    large = encoders.bigg(padded(BIGG_PAD), output_hidden_states=True)
    context = torch.cat([small.hidden_states[-2], large.hidden_states[-2]], dim=-1)
    sizes = size_embedding(encoders.time_embed_dim, SIZE).to(device)
    return Conditioning(context, torch.cat([large.text_embeds, sizes.expand(len(rows), -1)], dim=-1))
