"""Which of a model's weight files to take: safetensors before torch files, the plain ones before variants."""

import re
from collections.abc import Collection, Iterator

from lightning_drift.common.errors import notice

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", "fp16", "bf16", "fp32", "non_ema", "ema_only")


def weight_file(names: Collection[str]) -> str | None:
    """The weight file of a part, or the index of its shards, among the names in the part's folder.

    Args:
        names: The names of the folder's files.

    Returns:
        Its name; None if there is none.

    >>> weight_file(["model.fp16.safetensors", "pytorch_model.bin"])
    'model.fp16.safetensors'
    """
    return next((name for name, _ in _candidates() if name in names), None)


def weight_files(names: Collection[str], half: bool = False) -> list[str]:
    """The files to fetch for a part: what `weight_file` takes, with the shards of an index.

    Args:
        names: The names of the folder's files.
        half: Whether float16 weights come before the plain ones.

    >>> weight_files(["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin", "config.json"])
    ['pytorch_model.bin.index.json', 'pytorch_model-00001-of-00001.bin']
    """
    for name, shard in _candidates("fp16" if half else ""):
        if name in names:
            return [name, *sorted(other for other in names if shard and re.fullmatch(shard, other))]
    return []


def say_variant(name: str, folder: str) -> None:
    """Say which weights were taken where they are not the plain safetensors."""
    if not re.fullmatch(r"[a-z_]+\.safetensors(\.index\.json)?", name):
        notice(f"{folder}: its weights are read from {name}")


def _candidates(first: str = "") -> Iterator[tuple[str, str]]:
    """Names by preference, each with the pattern of its shards; none for a whole file."""
    for suffix in ("safetensors", "bin"):
        for variant in dict.fromkeys((first, *_VARIANTS)):
            dotted = f".{variant}" if variant else ""
            for stem in _STEMS:
                yield f"{stem}{dotted}.{suffix}", ""
                mark = re.escape(dotted)
                shard = rf"{stem}({mark}-\d+-of-\d+|-\d+-of-\d+{mark})\.{suffix}"
                yield f"{stem}.{suffix}.index{dotted}.json", shard
                if variant:
                    yield f"{stem}{dotted}.{suffix}.index.json", shard
