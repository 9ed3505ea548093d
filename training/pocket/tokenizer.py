"""The pocket's tokenizer: CLIP's byte-level BPE, merged to the world's words and some of every day."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CLIPTokenizer

from training.pocket.world.captions import caption, full_caption
from training.pocket.world.scene import sample_scene

#: Longest prompt in tokens, with its begin and end: the longest captions of the world have 30.
CONTEXT = 32
BEGIN, END = "<|startoftext|>", "<|endoftext|>"

#: Words a user may say about photographs, so that they do not fall into letters.
_EVERYDAY = (
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "by",
    "with",
    "and",
    "at",
    "from",
    "to",
    "style",
    "texture",
    "light",
    "dark",
    "colour",
    "color",
    "portrait",
    "person",
    "face",
    "man",
    "woman",
    "child",
    "cat",
    "dog",
    "bird",
    "fish",
    "horse",
    "car",
    "boat",
    "ship",
    "river",
    "lake",
    "road",
    "street",
    "bridge",
    "flower",
    "garden",
    "window",
    "door",
    "room",
    "table",
    "cup",
    "plate",
    "book",
    "shell",
    "stone",
    "rock",
    "cloth",
    "glass",
    "metal",
    "wood",
    "paper",
    "water",
    "fire",
    "ice",
    "cloud",
    "earth",
    "space",
    "planet",
    "star",
    "stars",
    "abstract",
    "geometric",
    "pattern",
    "shape",
    "line",
    "detail",
    "close",
    "up",
    "black",
    "white",
    "bright",
    "soft",
    "old",
    "new",
    "small",
    "large",
    "big",
    "long",
    "short",
    "sks",
    "zwx",
    "ohwx",
    "subject",
    "object",
    "thing",
    "image",
    "view",
    "scene",
    "landscape",
)


def _byte_letters() -> list[str]:
    """GPT-2's printable stand-in for each byte, in CLIP's vocabulary order."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in keep] + [chr(256 + n) for n in range(256 - len(keep))]


def _word_counts() -> Counter[str]:
    counts: Counter[str] = Counter()
    for index in range(3000):
        scene = sample_scene(0, index)
        for text in (full_caption(scene), caption(scene, np.random.default_rng([scene.seed, 0]))):
            counts.update(re.findall(r"[a-z]+", text.lower()))
    for word in _EVERYDAY:
        counts[word] += 20
    return counts


@cache
def _merges() -> list[tuple[str, str]]:
    """Merge the most frequent pair (the first in order on a tie) until every word is one token."""
    words = {(*word[:-1], word[-1] + "</w>"): n for word, n in sorted(_word_counts().items())}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                pairs[pair] += n
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: dict[tuple[str, ...], int] = {}
        for word, n in words.items():
            parts: list[str] = []
            for letter in word:
                if parts and (parts[-1], letter) == best:
                    parts[-1] += letter
                else:
                    parts.append(letter)
            merged[tuple(parts)] = n
        words = merged


def build_tokenizer() -> Any:
    """The pocket's CLIPTokenizer; every string can be encoded, every word of the world is one token."""
    merges = _merges()
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*tokens, BEGIN, END]))}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT,
        "bos_token": BEGIN,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "errors": "replace",
        "do_lower_case": True,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(str(folder))


def tokenize(tokenizer: Any, texts: list[str]) -> Any:
    """Token ids (n, 32) of prompts, cut and padded with the end token."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    ).input_ids
