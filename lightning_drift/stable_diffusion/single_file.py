"""Stable Diffusion 1.x in one file of the LDM layout, read offline: with SD v1.5's configs inside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.text import listed
from lightning_drift.stable_diffusion.opened_pipeline import PARTS, OpenedPipeline, empty_models, wrong_family
from lightning_drift.stable_diffusion.sd15 import sd15_config
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


def read_single_file(weights: Weights, path: Path) -> OpenedPipeline:
    """The parts of a pipeline in one file of the LDM layout.

    The parts have SD v1.5's shape, unless the file's metadata says otherwise, as our own exports may.
    ``model_ema.*`` weights are left aside with a notice, training's leftovers are dropped by name.

    Args:
        weights: The opened file, under its own names.
        path: The file.

    Raises:
        UserError: Another kind of model, a part missing or incomplete, or keys that belong to no part.
    """
    origin = str(path)
    refuse_other_kinds(weights.shapes, origin)
    parts = _described_parts(weights.metadata, origin)
    configs = parts["configs"]
    models = empty_models(configs, origin)
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
        elif not (key in known or key in _SCHEDULE or key in _STRAY or key.startswith(_STRAY_PREFIXES)):
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
        weights={part: weights.renamed(names[part]) for part in PARTS},
        tokenizer=parts["tokenizer"],
        scheduler_config=parts["scheduler_config"],
        files={path.name: path},
        recipe=metadata_entry(weights.metadata, "recipe", origin),
        step=metadata_entry(weights.metadata, "step", origin),
    )


def refuse_other_kinds(shapes: Mapping[str, tuple[int, ...]], origin: str) -> None:
    """Name what a file is that holds no Stable Diffusion 1.x pipeline.

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
    if holds("conditioner.embedders."):
        raise wrong_family(origin, "a Stable Diffusion XL model")
    if holds("cond_stage_model.model.transformer."):
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
    channels = shapes.get(f"{ldm_names.UNET_PREFIX}input_blocks.0.0.weight", (0, 4))[1]
    if channels == 9:
        raise wrong_family(origin, "an inpainting model (its UNet takes 9 channels)")
    if channels != 4:
        raise wrong_family(origin, f"a model whose UNet takes {channels} channels instead of 4")


def _described_parts(metadata: Mapping[str, str], origin: str) -> dict[str, Any]:
    """Configs, tokenizer and schedule: from the file's metadata, else SD v1.5's."""
    described = metadata_entry(metadata, "parts", origin)
    if described is not None:
        try:
            return {
                "configs": {part: described[part] for part in PARTS},
                "tokenizer": tokenizer_from_json(described["tokenizer"], described["model_max_length"]),
                "scheduler_config": described["scheduler"],
            }
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the {METADATA}parts entry in the metadata of {origin} is damaged ({error})"
            ) from error
    scheduler_config = sd15_config("scheduler")
    if metadata.get("modelspec.prediction_type") == "v":
        scheduler_config["prediction_type"] = "v_prediction"
    return {
        "configs": {part: sd15_config(part) for part in PARTS},
        "tokenizer": sd15_tokenizer(),
        "scheduler_config": scheduler_config,
    }


def _config(model: Any) -> dict[str, Any]:
    return dict(model.config)
