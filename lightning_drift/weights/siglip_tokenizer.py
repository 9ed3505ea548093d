"""SigLIP's tokenizers from their ``tokenizer.json``, with what its authors do to a text before."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import check_file, read_json
from lightning_drift.common.numbers import shown
from lightning_drift.common.out_of_memory import refuse_full
from lightning_drift.common.text import reason

_LARGEST = 64 * 2**20
"""Bytes of a tokenizer.json; Gemma's, which SigLIP 2 shares, has 34 MB."""


class SiglipTokenizer:
    """Turns prompts into the ids that SigLIP was trained with.

    Lower case, without punctuation where the vocabulary is SigLIP's own (``canonicalize_text`` of
    transformers' ``SiglipTokenizer``); an end token; padded to the full context, for the text's vector is
    that of its last place.

    Args:
        folder: As published, with ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        UserError: It holds no such files, or damaged ones.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not os.path.lexists(path):
            raise UserError(
                f"{folder} holds no tokenizer.json, and spiece.model alone cannot be read; fetch that file "
                "too, or give a SigLIP that has one, such as google/siglip2-base-patch16-224"
            )
        config = _config(folder / "tokenizer_config.json") | _config(folder / "special_tokens_map.json")
        self.strips_punctuation = str(config.get("tokenizer_class")).startswith("SiglipTokenizer")
        self._tokenizer = _read(path)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.eos, self.pad = (self._number(config, part, path) for part in ("eos_token", "pad_token"))

    def __len__(self) -> int:
        """The largest id and one: a damaged vocabulary may number its tokens with gaps."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def ids(self, texts: Sequence[str], length: int) -> Tensor:
        """Token ids of prompts, shape (n, length); longer prompts are cut, their end token kept."""
        rows = []
        for text in texts:
            own = self._tokenizer.encode(self._canonical(text), add_special_tokens=False).ids
            row = [*own[: length - 1], self.eos]
            rows.append(row + [self.pad] * (length - len(row)))
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), length)

    def _canonical(self, text: str) -> str:
        text = text.lower()
        if self.strips_punctuation:
            text = re.sub(r"\s+", " ", text.translate(str.maketrans("", "", string.punctuation))).strip()
        return text

    def _number(self, config: dict[str, Any], part: str, path: Path) -> int:
        token = config.get(part)
        token = token.get("content") if isinstance(token, dict) else token
        number = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        if number is None:
            raise UserError(f"{path} does not know its {part}, {shown(token)}; fetch the tokenizer again")
        return number


def _config(path: Path) -> dict[str, Any]:
    return dict(read_json(path, "tokenizer file")) if os.path.lexists(path) else {}


def _read(path: Path) -> Tokenizer:
    check_file(path, "tokenizer file")
    with open(path, "rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise UserError(f"the tokenizer file {path} holds more than {_LARGEST // 2**20} MiB")
    try:
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.encode("a photo", add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of tokenizers is no Exception
        refuse_full(error, f"the tokenizer of {path}")
        raise UserError(f"{path} is no tokenizer that can be read ({reason(error)})") from error
    return tokenizer
