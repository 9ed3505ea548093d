"""Finding model files: local paths, and the hub's where a path does not exist."""

import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from lightning_drift.assets import POCKET_SUPIR
from lightning_drift.common.errors import UserError

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")

"""The tiny SUPIR that comes with the package, and its base."""

SMALL_FILES = ("model_index.json", "/config.json", "tokenizer/")


def find_model(name: str, option: str) -> Path:
    """The file or folder of a model.

    Args:
        name: ``pocket``, the tiny SUPIR of the package or its base; a local file or folder (one called
            pocket is ``./pocket``); ``owner/repository`` on the hub for a diffusers folder; or
            ``owner/repository/path/to/file.safetensors`` for one file of a repository.
        option: The option's name, for messages.

    Raises:
        UserError: It is neither here nor on the hub, or the hub cannot be reached.
    """
    if name == "pocket":
        path = POCKET_SUPIR / ("supir.safetensors" if option == "supir" else "sdxl")
        if not path.exists():
            raise UserError(
                "this copy of the package holds no trained SUPIR of the pocket's. "
                "python -m training.pocket_supir.train trains one; give the paths of its two models",
                option,
            )
        return path
    path = Path(name).expanduser()
    if path.exists():
        return path
    is_file = name.lower().endswith(WEIGHT_SUFFIXES)
    parts = name.split("/")
    on_hub = (
        re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)+", name) and len(parts) == 2
        if not is_file
        else len(parts) > 2
    )
    if not on_hub or path.is_absolute() or name.startswith("."):
        raise UserError(
            f"no such file or folder: {name}. Give a local path, or a hub id: owner/repository for "
            "a diffusers folder, owner/repository/file.safetensors for one file",
            option,
        )
    try:
        if is_file:
            return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
        return _fetch_folder(name)
    except GatedRepoError as error:
        raise UserError(
            f"{name} asks for consent on its hub page; give it there, then `hf auth login`", option
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name} is neither a local path nor a public model on the hub", option) from error
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{name} is no local path, is not in the hub's cache, and cannot be fetched now. "
            "Fetch it where the hub can be reached and give its local path",
            option,
        ) from error


def _fetch_folder(name: str) -> Path:
    """The snapshot of a diffusers repository: its SDXL parts in one precision, and nothing else."""
    try:
        files = HfApi().list_repo_files(name)
    except (RepositoryNotFoundError, GatedRepoError):
        raise
    except Exception:  # no connection, in the words of whatever client it uses: what is in the cache must do
        return Path(snapshot_download(name, local_files_only=True))
    return Path(snapshot_download(name, allow_patterns=wanted_files(files)))


def wanted_files(files: list[str]) -> list[str]:
    """Of a diffusers repository's files those to fetch: float16 weights of a part where there are any."""
    wanted = [
        file for file in files if file.count("/") < 2 and any(mark in f"/{file}" for mark in SMALL_FILES)
    ]
    for part in PARTS:
        weights = [file for file in files if file.startswith(f"{part}/") and ".safetensors" in file]
        weights = [
            file for file in weights if file.split("/")[1].startswith(("diffusion_pytorch_model", "model"))
        ]
        plain = [file for file in weights if ".fp16." not in file]
        half = [file for file in weights if file.endswith(".fp16.safetensors")]
        wanted += half if len(half) == 1 else plain
    return wanted
