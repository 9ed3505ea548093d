"""A pipeline in diffusers' folder layout: a config and weights in a folder per part."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import listed
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, OpenedPipeline, wrong_family
from lightning_drift.weights.clip_tokenizer import read_tokenizer
from lightning_drift.weights.configs import read_config
from lightning_drift.weights.files import Weights, open_weights
from lightning_drift.weights.ldm_names import current_vae_name

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_TORCH_NAMES = {
    **dict.fromkeys(("unet", "vae"), "diffusion_pytorch_model.bin"),
    "text_encoder": "pytorch_model.bin",
}

_NEEDED = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
    *(f"{part}/config.json" for part in PARTS),
    *(f"{part}/{stem}.safetensors*" for part, stem in _STEMS.items()),
    *(f"{part}/{stem}-*-of-*.safetensors" for part, stem in _STEMS.items()),
)

_OTHER_CLASSES = {
    "XL": "a Stable Diffusion XL pipeline",
    "StableDiffusion3": "a Stable Diffusion 3 pipeline",
    "Flux": "a Flux pipeline",
    "Inpaint": "an inpainting pipeline",
    "InstructPix2Pix": "an InstructPix2Pix pipeline",
}


def pipeline_files(files: Sequence[str]) -> list[str]:
    """Of a hub pipeline's files those to fetch: no safety checker, no second precision, no single files."""
    return [file for file in files if any(fnmatch(file, pattern) for pattern in _NEEDED)]


def read_folder(folder: Path) -> OpenedPipeline:
    """The parts of a pipeline in diffusers' folder layout.

    Weights are ``.safetensors``, whole or sharded, else its fp16 variant, else a ``.bin`` (weights_only).

    Raises:
        UserError: No pipeline, a part missing, or a pipeline of another kind.
    """
    if not (folder / "model_index.json").is_file():
        inside = (*folder.iterdir(), *folder.glob("checkpoints/*"))
        files = sorted(
            path.relative_to(folder).as_posix() for path in inside if path.suffix in {".safetensors", ".ckpt"}
        )
        hint = f". It holds {listed(files)}: give one of these files" if files else ""
        raise UserError(f"{folder} is not a diffusers pipeline: it has no model_index.json{hint}")
    kind = str(read_config(folder / "model_index.json").get("_class_name", ""))
    for mark, what in _OTHER_CLASSES.items():
        if mark in kind:
            raise wrong_family(str(folder), what)

    lacking = [part for part in (*PARTS, "tokenizer", "scheduler") if not (folder / part).is_dir()]
    if lacking:
        raise UserError(f"{folder} is not a whole Stable Diffusion 1.x pipeline: it lacks {listed(lacking)}")
    configs = {part: read_config(folder / part / "config.json") for part in PARTS}
    if "text_config" in configs["text_encoder"]:  # a whole CLIP's config, as early conversions wrote
        configs["text_encoder"] = configs["text_encoder"]["text_config"]
    weights = {part: _open_part(folder / part, part) for part in PARTS}
    return OpenedPipeline(
        source=str(folder.resolve()),
        revision=None,
        configs=configs,
        weights={
            "unet": weights["unet"],
            "text_encoder": text_encoder_weights(weights["text_encoder"]),
            "vae": weights["vae"].renamed({current_vae_name(key): key for key in weights["vae"].shapes}),
        },
        tokenizer=read_tokenizer(folder / "tokenizer"),
        scheduler_config=read_config(folder / "scheduler" / "scheduler_config.json"),
        files={f.relative_to(folder).as_posix(): f for part in PARTS for f in weights[part].files},
    )


def text_encoder_weights(weights: Weights) -> Weights:
    """A text encoder's weights under transformers 5's names, without ``text_model.`` and ``position_ids``."""
    names = {key.removeprefix("text_model."): key for key in weights.shapes}
    names.pop("embeddings.position_ids", None)
    return weights.renamed(names)


def _open_part(folder: Path, part: str) -> Weights:
    stem = _STEMS[part]
    names = [
        f"{stem}.safetensors",
        f"{stem}.safetensors.index.json",
        f"{stem}.fp16.safetensors",
        _TORCH_NAMES[part],
    ]
    for name in names:
        if (folder / name).is_file():
            return open_weights(folder / name)
    raise UserError(f"{folder} holds no weights: expected {names[0]}")
