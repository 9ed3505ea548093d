"""Finding SUPIR's two models: local paths, the package's own, and the hub's where a path does not exist."""

import re
from collections.abc import Callable
from pathlib import Path

from lightning_drift.assets import POCKET_SUPIR
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.weights.hub import fetch_file, fetch_folder
from lightning_drift.weights.variants import weight_files

SDXL_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
"""The parts of an SDXL model that hold weights, by their folders."""

WEIGHT_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
SMALL_FILES = ("model_index.json", "/config.json", "tokenizer/")


def sdxl_files(files: list[str]) -> list[str]:
    """Of an SDXL repository's files those to fetch: float16 weights of a part where there are any."""
    chosen = [
        file for file in files if file.count("/") < 2 and any(mark in f"/{file}" for mark in SMALL_FILES)
    ]
    for part in SDXL_PARTS:
        inside = [file.removeprefix(f"{part}/") for file in files if file.startswith(f"{part}/")]
        chosen += [f"{part}/{name}" for name in weight_files(inside, half=True)]
    return chosen


def vae_files(files: list[str]) -> list[str]:
    """Of a repository's files those to fetch for its autoencoder: a folder of a pipeline's, or the root's."""
    root = "vae/" if "vae/config.json" in files else ""
    inside = [file.removeprefix(root) for file in files if file.startswith(root)]
    return [f"{root}{name}" for name in ("config.json", *weight_files(inside))]


def find_supir(name: str, option: str = "model.supir") -> Path:
    """SUPIR's own weights: ``pocket`` for the tiny SUPIR of the package, else as for `find_model`.

    Raises:
        UserError: They are neither here nor on the hub, or the hub cannot be reached.
    """
    return _bundled("supir.safetensors", option) if name == "pocket" else find_model(name, option)


def find_sdxl(name: str, option: str = "model.sdxl") -> Path:
    """The SDXL base: ``pocket`` for that of the package's tiny SUPIR, else as for `find_model`.

    Raises:
        UserError: It is neither here nor on the hub, or the hub cannot be reached.
    """
    return _bundled("sdxl", option) if name == "pocket" else find_model(name, option)


def _bundled(name: str, option: str) -> Path:
    path = POCKET_SUPIR / name
    if not path.exists():
        raise UserError(
            "this copy of the package holds no trained SUPIR of the pocket's. "
            "python -m training.pocket_supir.train trains one; give the paths of its two models",
            option,
        )
    return path


def find_vae(name: str, option: str = "model.vae") -> Path:
    """An autoencoder, as for `find_model`; of a pipeline's repository its autoencoder alone is fetched.

    Raises:
        UserError: It is neither here nor on the hub, or the hub cannot be reached.
    """
    return find_model(name, option, vae_files)


def find_lora(name: str, option: str = "model.lora") -> Path:
    """The file of a LoRA: a local one, or ``owner/repository/file`` on the hub.

    Raises:
        UserError: It is neither here nor on the hub, is a folder, or the hub cannot be reached.
    """
    path = find_model(name, option, None)
    if path.is_dir():
        raise UserError(f"{name} is a folder; give the file of a LoRA", option)
    return path


def find_model(name: str, option: str, choose: Callable[[list[str]], list[str]] | None = sdxl_files) -> Path:
    """The file or folder of a model.

    Args:
        name: A local file or folder (one called pocket is ``./pocket``); ``owner/repository`` on the hub for
            a diffusers folder; or ``owner/repository/path/to/file.safetensors`` for one file of a repository.
        option: The option that holds the name, for messages.
        choose: Which files of a repository to fetch; None where it has to be one file.

    Raises:
        UserError: It is neither here nor on the hub, or the hub cannot be reached.
    """
    path = user_path(name, option)
    if path.exists():
        return path
    is_file = name.lower().endswith(WEIGHT_SUFFIXES)
    parts = name.split("/")
    on_hub = (
        re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)+", name) and len(parts) == 2
        if not is_file
        else len(parts) > 2
    )
    if not on_hub or path.is_absolute() or name.startswith(".") or not (is_file or choose):
        folder = "owner/repository for a diffusers folder, " if choose else ""
        raise UserError(
            f"no such file{' or folder' if choose else ''}: {name}. Give a local path, or a hub id: {folder}"
            "owner/repository/file.safetensors for one file",
            option,
        )
    if is_file or choose is None:
        return fetch_file("/".join(parts[:2]), "/".join(parts[2:]), "a local path", option)
    return fetch_folder(name, choose, "a local path", option)
