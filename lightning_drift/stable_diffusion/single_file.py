"""Stable Diffusion 1.x in one file of the LDM layout, read offline with SD v1.5's configs of the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.text import listed
from lightning_drift.stable_diffusion.noise_schedule import MARKERS, check_schedule, stated_schedule
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, OpenedPipeline, empty_models, wrong_family
from lightning_drift.stable_diffusion.recorded import checked_recipe, checked_step
from lightning_drift.stable_diffusion.sd15 import sd15_config, sd15_models
from lightning_drift.weights import ldm_names
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer, tokenizer_from_json
from lightning_drift.weights.files import Weights
from lightning_drift.weights.metadata import METADATA, metadata_entry

# Noise schedule buffers of LDM's training module; the schedule is in scheduler_config instead.
_SCHEDULE = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "scale_factor",
}
# CLIP's other half and what is left of training; no part of text to image.
_STRAY = {
    "cond_stage_model.logit_scale",
    "cond_stage_model.transformer.logit_scale",
    "cond_stage_model.text_projection",
    "cond_stage_model.transformer.text_projection.weight",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.transformer.embeddings.position_ids",
}
_STRAY_PREFIXES = (
    "first_stage_model.loss.",
    "cond_stage_model.transformer.vision_model.",
    "embedding_manager.",
)
_DROPPED = {*_SCHEDULE, *_STRAY, *MARKERS}


def read_single_file(weights: Weights, path: Path) -> OpenedPipeline:
    """The parts of a pipeline in one file of the LDM layout.

    The parts have SD v1.5's shape, unless the file's metadata says otherwise, as our own exports may.
    ``model_ema.*`` weights are not used, which a notice says; known leftovers of training are dropped.

    Args:
        weights: The opened file, under its own names.
        path: The file.

    Raises:
        UserError: Another kind of model, a part missing or incomplete, or keys that belong to no part.
    """
    origin = str(path)
    weights = _averaged(weights, path)
    refuse_other_kinds(weights.shapes, origin)
    description = _description(weights, path)
    configs = description["configs"]
    own = {part: sd15_config(part) for part in PARTS}
    models = sd15_models() if configs == own else empty_models(configs, origin)
    keys = {part: models[part].state_dict().keys() for part in PARTS}
    names = {
        "unet": ldm_names.unet_names(keys["unet"], _config(models["unet"])),
        "text_encoder": ldm_names.text_encoder_names(keys["text_encoder"]),
        "vae": ldm_names.vae_names(keys["vae"], _config(models["vae"])),
    }
    prefix = ldm_names.TEXT_ENCODER_PREFIX
    if not any(key.startswith(f"{prefix}text_model.") for key in weights.shapes):
        # Written by a converter that lost text_model. to transformers 5.
        names["text_encoder"] = {
            key: ldm.replace("text_model.", "", 1) for key, ldm in names["text_encoder"].items()
        }
    for part, what in (("vae", "autoencoder (first_stage_model.*)"), ("text_encoder", "text encoder")):
        if weights.shapes.keys().isdisjoint(names[part].values()):
            raise UserError(
                f"{origin} is pruned: it holds no {what}; give the full checkpoint, which holds UNet, text "
                "encoder and autoencoder"
            )
    faults = [
        f"missing of the {part.replace('_', ' ')} {listed(missing)}"
        for part in PARTS
        if (missing := [ldm for ldm in names[part].values() if ldm not in weights.shapes])
    ]
    known = {ldm for part in PARTS for ldm in names[part].values()}
    left_over, averaged = [], False
    for key in weights.shapes:
        if key.startswith("model_ema."):
            averaged = True
        elif not (key in known or key in _DROPPED or key.startswith(_STRAY_PREFIXES)):
            left_over.append(key)
    if left_over:
        faults.append(f"unexpected {listed(left_over)}")
    if faults:
        raise UserError(f"{origin} is not a complete Stable Diffusion 1.x model: {'; '.join(faults)}")
    if averaged:
        notice(f"{path.name}: its averaged weights (model_ema.*) are left aside, its plain ones used")
    return OpenedPipeline(
        source=str(path.resolve()),
        revision=None,
        configs=configs,
        weights={part: weights.renamed(names[part], part) for part in PARTS},
        tokenizer=description["tokenizer"],
        scheduler_config=description["scheduler_config"],
        files={path.name: path},
        recipe=checked_recipe(metadata_entry(weights.metadata, "recipe", origin), origin),
        step=checked_step(metadata_entry(weights.metadata, "step", origin), origin),
    )


def refuse_other_kinds(shapes: Mapping[str, tuple[int, ...]], origin: str) -> None:
    """Refuse a file that holds no Stable Diffusion 1.x pipeline, and say what it is.

    Raises:
        UserError: It is a LoRA, a single part, or a model of another family.
    """

    def holds(*marks: str) -> bool:
        return any(mark in key for key in shapes for mark in marks)

    if holds("lora_", ".lora.", "hada_w", "lokr_"):
        raise UserError(
            f"{origin} is a LoRA, not a model; give the Stable Diffusion 1.x model that "
            "it was made for (LoRAs are not merged)"
        )
    if holds("scaled_fp8", ".scale_weight", ".weight_scale", ".absmax", ".quant_state."):
        raise UserError(
            f"{origin} holds weights quantised with scales of their own; give one in float16, bfloat16, "
            "float32 or plain float8"
        )
    unet = ldm_names.UNET_PREFIX
    features = shapes.get(f"{unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (0, 0))[1:]
    if holds("conditioner.embedders.") or f"{unet}label_emb.0.0.weight" in shapes:
        raise wrong_family(origin, "a Stable Diffusion XL model")
    if holds("cond_stage_model.model.transformer.") or features == (1024,):
        raise wrong_family(origin, "a Stable Diffusion 2.x model")
    if holds("joint_blocks."):
        raise wrong_family(origin, "a Stable Diffusion 3 model")
    if holds("double_blocks."):
        raise wrong_family(origin, "a Flux model")
    if not any(key.startswith(ldm_names.UNET_PREFIX) for key in shapes):
        if holds("down_blocks.", "encoder.layers.", "encoder.down."):
            raise UserError(
                f"{origin} is one part of a pipeline; give the pipeline's folder, the one "
                "with model_index.json"
            )
        raise UserError(
            f"{origin} is not a Stable Diffusion file: it has no model.diffusion_model.* weights "
            f"(it holds {listed(shapes)})"
        )
    channels = (*shapes.get(f"{unet}input_blocks.0.0.weight", ()), 0, 4)[1]
    if channels == 9:
        raise wrong_family(origin, "an inpainting model (its UNet takes 9 channels)")
    if channels != 4:
        raise wrong_family(origin, f"a model whose UNet takes {channels} channels instead of 4")


def _description(weights: Weights, path: Path) -> dict[str, Any]:
    """Configs, tokenizer and schedule: from the file's metadata, else SD v1.5's."""
    entry = metadata_entry(weights.metadata, "parts", str(path))
    name = f"the {METADATA}parts entry in the metadata of {path}"
    if entry is not None:
        needed = (*PARTS, "tokenizer", "model_max_length", "scheduler")
        if not isinstance(entry, dict) or any(key not in entry for key in needed):
            raise UserError(f"{name} is damaged: it lacks one of {listed(needed)}")
        return {
            "configs": {part: entry[part] for part in PARTS},
            "tokenizer": tokenizer_from_json(entry["tokenizer"], entry["model_max_length"], name),
            "scheduler_config": check_schedule(entry["scheduler"], name),
        }
    return {
        "configs": {part: sd15_config(part) for part in PARTS},
        "tokenizer": sd15_tokenizer(),
        "scheduler_config": stated_schedule(sd15_config("scheduler"), weights.shapes, weights.metadata, path),
    }


def _averaged(weights: Weights, path: Path) -> Weights:
    """The weights, with the averaged UNet in the plain one's place where the file holds no plain one.

    LDM's names of averaged weights are the plain ones without their dots.
    """
    plain, averaged = ldm_names.UNET_PREFIX, "model_ema.diffusion_model"
    if any(key.startswith(plain) for key in weights.shapes):
        return weights
    if not any(key.startswith(averaged) for key in weights.shapes):
        return weights
    notice(f"{path.name} holds averaged weights of the UNet only (model_ema.*); they are used")
    names = {key: key for key in weights.shapes if not key.startswith("model_ema.")}
    for key in ldm_names.unet_names(sd15_models()["unet"].state_dict(), sd15_config("unet")).values():
        flat = f"model_ema.{key.removeprefix('model.').replace('.', '')}"
        if flat in weights.shapes:
            names[key] = flat
    return weights.renamed(names)


def _config(model: Any) -> dict[str, Any]:
    return dict(model.config)
