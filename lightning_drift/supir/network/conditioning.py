"""Text to what the networks read: tokens within the 77, both SDXL text encoders, and the size embedding."""

from collections.abc import Sequence

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lightning_drift.supir.network.denoiser import Conditioning

SIZE = 1024
"""Original and target size that the networks are told, whatever the picture's (reference behaviour)."""
BIGG_PAD = 0


def token_ids(tokenizer: CLIPTokenizer, caption: str, prompt: str) -> tuple[list[int], bool]:
    """Tokens of a caption, a comma and the general prompt, without start, end and padding.

    The general prompt comes whole and the caption fills what is left of the tokenizer's length.

    Args:
        tokenizer: The CLIP tokenizer.
        caption: What is in this picture; may be empty.
        prompt: The general prompt; may be empty.

    Returns:
        At most ``model_max_length - 2`` ids, and whether anything was cut.
    """
    if not caption or not prompt:
        return reference_token_ids(tokenizer, caption, prompt)
    room = int(tokenizer.model_max_length) - 2
    tail = _ids(tokenizer, ", " + prompt)[:room]
    head = _ids(tokenizer, caption)
    return head[: room - len(tail)] + tail, len(head) + len(tail) > room


def reference_token_ids(tokenizer: CLIPTokenizer, caption: str, prompt: str) -> tuple[list[int], bool]:
    """The same as the reference has it: no separator, and what is too long is cut at the end.

    So a long caption silences the general prompt.
    """
    room = int(tokenizer.model_max_length) - 2
    ids = _ids(tokenizer, caption + prompt)
    return ids[:room], len(ids) > room


def _ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


class TextEncoders(nn.Module):
    """CLIP-L and OpenCLIP bigG as SDXL uses them (Podell et al. 2023, arXiv:2307.01952, section 2.1).

    Args:
        clip_l: The smaller encoder; its penultimate hidden state is used.
        bigg: The larger encoder; its penultimate hidden state and its projected pooled output are used.
        tokenizer: One tokenizer for both: they share the vocabulary and differ in padding only.
        time_embed_dim: Width of each number's sinusoid in the size embedding, 256 for SDXL.
    """

    def __init__(
        self,
        clip_l: CLIPTextModel,
        bigg: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        time_embed_dim: int = 256,
    ) -> None:
        super().__init__()
        self.clip_l = clip_l
        self.bigg = bigg
        self.tokenizer = tokenizer
        self.time_embed_dim = time_embed_dim

    def forward(self, ids: Sequence[int], size: int = SIZE) -> Conditioning:
        """Conditioning of one prompt: context [1, 77, 2048] and vector [1, 2816], float32, on the CPU.

        Args:
            ids: Tokens without start, end and padding. CLIP-L is padded with the end token, bigG with 0.
            size: Edge of the original and the target picture that the networks are told.
        """
        tokenizer = self.tokenizer
        length, end = int(tokenizer.model_max_length), int(tokenizer.eos_token_id)
        row = [int(tokenizer.bos_token_id), *ids, end]
        device = self.clip_l.embeddings.token_embedding.weight.device

        def padded(pad: int) -> Tensor:
            return torch.tensor([row + [pad] * (length - len(row))], device=device)

        small = self.clip_l(padded(end), output_hidden_states=True)
        large = self.bigg(padded(BIGG_PAD), output_hidden_states=True)
        context = torch.cat([small.hidden_states[-2], large.hidden_states[-2]], dim=-1)
        sizes = size_embedding(self.time_embed_dim, size)
        vector = torch.cat([large.text_embeds.float().cpu(), sizes], dim=-1)
        return Conditioning(context.float().cpu(), vector)


def size_embedding(width: int, size: int = SIZE) -> Tensor:
    """Cosines and sines of original size, crop corner 0 and target size [1, 6 * width], as in SDXL."""
    numbers = torch.tensor([size, size, 0, 0, size, size], dtype=torch.float32)
    embedded: Tensor = get_timestep_embedding(
        numbers, width, flip_sin_to_cos=True, downscale_freq_shift=0, max_period=10000
    )
    return embedded.reshape(1, -1)
