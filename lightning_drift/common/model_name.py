"""The short name of a model, from what loads it."""

from pathlib import Path

_SUFFIXES = (".safetensors.index.json", ".safetensors", ".ckpt", ".pth", ".pt", ".bin")


def model_name(name: str) -> str:
    """The last part of a path or hub id, without the suffix of a weight file.

    Only these suffixes are dropped: a folder or a hub id may have a dot in its name.

    >>> model_name("Lykon/dreamshaper-v1.5"), model_name("out/ada-drift0.8.safetensors")
    ('dreamshaper-v1.5', 'ada-drift0.8')
    """
    last = Path(name).name
    suffix = next((suffix for suffix in _SUFFIXES if last.endswith(suffix)), "")
    return last.removesuffix(suffix)
