"""CLIP's tokenizer, which SD v1.5 and SDXL share: from its merges, a folder, or a tokenizer.json's text."""

import gzip
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from lightning_drift.assets import SD15
from lightning_drift.common.errors import UserError


def sd15_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer: 49,408 tokens, prompts of up to 77, padded with ``<|endoftext|>``."""
    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=merges, model_max_length=77)


def tokenizer_from_json(text: str, model_max_length: int) -> CLIPTokenizer:
    """A CLIP tokenizer from the text of its ``tokenizer.json``."""
    return CLIPTokenizer(tokenizer_object=Tokenizer.from_str(text), model_max_length=model_max_length)


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer from a folder as transformers writes it.

    Raises:
        UserError: The folder holds none, or a damaged one.
    """
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many kinds, tokenizers plain Exception
        raise UserError(f"{folder} holds no readable CLIP tokenizer ({error})") from error
    return tokenizer


@lru_cache(maxsize=1)
def _clip_vocabulary() -> tuple[dict[str, int], Any]:
    """The 256 bytes, the same as ends of words, one token per merge, and the two marks, in this order."""
    lines = gzip.decompress((SD15 / "tokenizer" / "merges.txt.gz").read_bytes()).decode().splitlines()
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    letters = list(_byte_letters())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _byte_letters() -> Iterable[str]:
    """GPT-2's letter for each byte: printable Latin-1 for itself, the letters from 256 on for the rest."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    yield from map(chr, printable)
    yield from (chr(256 + n) for n in range(256 - len(printable)))
