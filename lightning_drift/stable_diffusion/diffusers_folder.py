"""A pipeline in diffusers' folder layout: a config and weights in a folder per part."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import listed
from lightning_drift.stable_diffusion.noise_schedule import check_schedule
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, OpenedPipeline, wrong_family
from lightning_drift.weights.clip_tokenizer import read_tokenizer
from lightning_drift.weights.configs import read_config, read_model_config
from lightning_drift.weights.files import Weights, open_weights
from lightning_drift.weights.ldm_names import current_vae_name
from lightning_drift.weights.variants import say_variant, weight_file, weight_files

_SMALL = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
    *(f"{part}/config.json" for part in PARTS),
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
    chosen = [file for file in files if any(fnmatch(file, pattern) for pattern in _SMALL)]
    for part in PARTS:
        inside = [file.removeprefix(f"{part}/") for file in files if file.startswith(f"{part}/")]
        chosen += [f"{part}/{name}" for name in weight_files(inside)]
    return chosen


def read_folder(folder: Path) -> OpenedPipeline:
    """The parts of a pipeline in diffusers' folder layout.

    Weights are safetensors, whole or sharded, else a variant of them such as fp16, else ``.bin`` files
    (weights_only); a notice tells which where they are not the plain safetensors.

    Raises:
        UserError: No pipeline, a part missing, or a pipeline of another kind.
    """
    if not (folder / "model_index.json").is_file():
        inside = (*folder.iterdir(), *folder.glob("checkpoints/*"))
        files = sorted(
            path.relative_to(folder).as_posix()
            for path in inside
            if path.suffix.lower() in {".safetensors", ".ckpt"}
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
    configs = {part: read_model_config(folder / part / "config.json") for part in PARTS}
    if "text_config" in configs["text_encoder"]:  # a whole CLIP's config, as early conversions wrote
        configs["text_encoder"] = configs["text_encoder"]["text_config"]
    schedule = folder / "scheduler" / "scheduler_config.json"
    scheduler_config = check_schedule(read_config(schedule), str(schedule))
    weights = {part: _open_part(folder / part) for part in PARTS}
    return OpenedPipeline(
        source=str(folder.resolve()),
        revision=None,
        configs=configs,
        weights={
            "unet": replace(weights["unet"], part="unet"),
            "text_encoder": text_encoder_weights(weights["text_encoder"]),
            "vae": weights["vae"].renamed(
                {current_vae_name(key): key for key in weights["vae"].shapes}, "vae"
            ),
        },
        tokenizer=read_tokenizer(folder / "tokenizer"),
        scheduler_config=scheduler_config,
        files={f.relative_to(folder).as_posix(): f for part in PARTS for f in weights[part].files},
    )


# CLIP's other half, which a whole CLIP in a text encoder's place holds.
_OTHER_HALF = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")


def text_encoder_weights(weights: Weights) -> Weights:
    """A text encoder's weights under transformers 5's names.

    Other ages have ``text_model.`` before them, ``position_ids`` among them, or the other half of CLIP.

    Raises:
        UserError: They have open-clip's names.
    """
    if any(".resblocks." in f".{key}" for key in weights.shapes):
        raise UserError(
            f"{weights.origin} is a text encoder under open-clip's names (transformer.resblocks.*); give one "
            "as transformers writes it (CLIPTextModel.save_pretrained)"
        )
    names = {
        key.removeprefix("text_model."): key for key in weights.shapes if not key.startswith(_OTHER_HALF)
    }
    names.pop("embeddings.position_ids", None)
    return weights.renamed(names, "text_encoder")


def _open_part(folder: Path) -> Weights:
    name = weight_file([file.name for file in folder.iterdir()])
    if name is None:
        usual = "model" if folder.name == "text_encoder" else "diffusion_pytorch_model"
        raise UserError(f"{folder} holds no weights: expected {usual}.safetensors")
    say_variant(name, str(folder))
    return open_weights(folder / name)
