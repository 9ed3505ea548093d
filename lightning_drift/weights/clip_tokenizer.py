"""CLIP's tokenizer, which SD v1.5 and SDXL share: from its merges, a folder, or a tokenizer.json's text."""

import gzip
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from lightning_drift.assets import SD15
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_json, read_text
from lightning_drift.common.numbers import shown
from lightning_drift.common.out_of_memory import refuse_full
from lightning_drift.common.text import reason


def sd15_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer: 49,408 tokens, prompts of up to 77, padded with ``<|endoftext|>``."""
    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=merges, model_max_length=77)


_JSON = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_TEXT = ("merges.txt",)


def tokenizer_from_json(text: str, model_max_length: int, name: str) -> CLIPTokenizer:
    """A CLIP tokenizer from the text of its ``tokenizer.json``.

    Args:
        text: The text.
        model_max_length: Tokens in a prompt.
        name: What messages call it.

    Raises:
        UserError: It is damaged.
    """
    return _checked(
        lambda: CLIPTokenizer(tokenizer_object=Tokenizer.from_str(text), model_max_length=model_max_length),
        name,
    )


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer from a folder as transformers writes it.

    Raises:
        UserError: The folder holds none, or a damaged one.
    """
    for file in _JSON:
        if os.path.lexists(folder / file):
            read_json(folder / file, "tokenizer file")
    for file in _TEXT:
        if os.path.lexists(folder / file):
            read_text(folder / file, "tokenizer file")
    return _checked(lambda: CLIPTokenizer.from_pretrained(str(folder), local_files_only=True), str(folder))


def _checked(make: Callable[[], CLIPTokenizer], name: str) -> CLIPTokenizer:
    """The tokenizer, once it has turned a prompt into numbers."""
    try:
        tokenizer = make()
        length = tokenizer.model_max_length
        if isinstance(length, bool) or not isinstance(length, int | float) or not length >= 2:
            raise UserError(
                f"{name} holds no readable CLIP tokenizer (its model_max_length is {shown(length)})"
            )
        ids = tokenizer("a photo", padding="max_length", truncation=True, max_length=8).input_ids
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise UserError(f"{name} holds no readable CLIP tokenizer (it lacks the marks of begin and end)")
        if len(ids) != 8 or not all(0 <= number < len(tokenizer) for number in ids):
            raise UserError(f"{name} holds no readable CLIP tokenizer (it does not turn words into numbers)")
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # transformers raises many kinds; a panic of tokenizers is no Exception
        refuse_full(error, f"the tokenizer of {name}")
        raise UserError(f"{name} holds no readable CLIP tokenizer ({reason(error)})") from error
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
