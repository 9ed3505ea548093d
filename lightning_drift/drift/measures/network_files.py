"""Where the files of a network that measures lie: a folder, the hub's cache, or the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from lightning_drift.assets import POCKET_CLIP
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.weights.files import Weights, open_weights
from lightning_drift.weights.hub import NotCachedError, fetch_folder, from_cache
from lightning_drift.weights.variants import say_variant, weight_file, weight_files

EXAMPLE = "openai/clip-vit-large-patch14"


def find_network(name: str, example: str = EXAMPLE) -> Path:
    """The folder of a network, fetched from the hub where it is not local.

    Args:
        name: ``pocket``, a folder, or a hub id. A folder comes before a hub id.
        example: A hub id to name in the message.

    Raises:
        UserError: There is none of that name, or the hub cannot be reached.
    """
    if name == "pocket":
        return POCKET_CLIP
    folder = user_path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UserError(f"there is no folder {name}; give a local folder or a hub id such as {example}")
    return fetch_folder(name, clip_files, instead="a local folder")


def is_here(name: str) -> bool:
    """Whether a network can be read, or refused, without reaching the hub."""
    try:
        with from_cache():
            return find_network(name).is_dir()
    except NotCachedError:
        return False
    except UserError:
        return True


def refuse_missing(name: str, option: str) -> None:
    """Refuse the name of a local network that is not there.

    Raises:
        UserError: It is neither a folder nor ``pocket``.
    """
    try:
        find_network(name)
    except UserError as error:
        raise UserError(error.message, option) from error


def clip_files(files: Sequence[str]) -> list[str]:
    """Of a hub repository's files those to fetch: the weights once, from safetensors where there are any."""

    def matching(*patterns: str) -> list[str]:
        return [file for file in files if any(fnmatch(file, pattern) for pattern in patterns)]

    small = [file for file in matching("*.json", "merges.txt") if not file.endswith(".index.json")]
    return small + weight_files(files)


def open_network(folder: Path, name: str) -> Weights:
    """The weights in a folder.

    Raises:
        UserError: It holds none, or damaged ones.
    """
    file = weight_file([file.name for file in folder.iterdir()])
    if file is None:
        raise UserError(f"{name} holds no weights: expected model.safetensors in {folder}")
    say_variant(file, name)
    return open_weights(folder / file)
