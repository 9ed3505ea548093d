"""Builds a training stage from folders, and puts finished stages together as one pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel

from lightning_drift.common.errors import UserError
from training.pocket.autoencoder import AutoencoderStage, new_autoencoder
from training.pocket.clip import ClipStage, load_tokenizer, name_float32, new_clip
from training.pocket.run import Schedule, Stage
from training.pocket.scenes import Scenes
from training.pocket.unet import LatentScenes, UNetStage, new_unet

#: Steps, batch size, full learning rate and seed of each stage.
DEFAULTS: dict[str, tuple[int, int, float, int]] = {
    "autoencoder": (20_000, 16, 8.0e-4, 0),
    "text": (6_000, 128, 1.0e-3, 1),
    "clip": (6_000, 128, 1.0e-3, 2),
    "unet": (60_000, 32, 6.0e-4, 3),
}


def build_stage(
    name: str,
    state: Path,
    schedule: Schedule,
    scenes: Scenes,
    init: Path | None = None,
    freeze_encoder: bool = False,
) -> Stage:
    """A stage ready to train.

    Args:
        name: ``autoencoder``, ``text``, ``clip`` or ``unet``.
        state: Folder of all stages; the UNet reads the weights of ``autoencoder`` and ``text`` from it.
        schedule: How long and how fast.
        scenes: The scenes to train on.
        init: Folder whose ``<stage>`` holds weights to begin with, when ``state`` has no weights of the
            stage.
        freeze_encoder: Of the autoencoder train the decoder alone.

    Raises:
        UserError: A stage that this one needs has no weights yet.
    """
    start = init / name if init and (init / name).is_dir() else None

    def made(load: Callable[..., Any], new: Callable[[], Any]) -> Any:
        if start:
            return load(str(start), torch_dtype=torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(schedule.seed)
            return new()

    if name == "autoencoder":
        vae = made(AutoencoderKL.from_pretrained, new_autoencoder)
        return AutoencoderStage(vae, schedule, scenes, freeze_encoder=freeze_encoder)
    if name in ("text", "clip"):
        tokenizer = load_tokenizer(start)
        model = made(CLIPModel.from_pretrained, lambda: new_clip(tokenizer))
        return ClipStage(model, tokenizer, schedule, scenes, jitter=name == "clip")
    if name == "unet":
        vae = AutoencoderKL.from_pretrained(
            str(weights(state, init, "autoencoder")), torch_dtype=torch.float32
        )
        text = weights(state, init, "text")
        latents = LatentScenes(scenes, vae)
        unet = made(UNet2DConditionModel.from_pretrained, new_unet)
        return UNetStage(unet, text_encoder_of(text), load_tokenizer(text), schedule, latents)
    raise UserError(f"there is no stage {name!r}; the stages are {', '.join(DEFAULTS)}")


def weights(state: Path, init: Path | None, name: str) -> Path:
    """The folder with the averaged weights of a stage: of its own training, or those to begin with.

    Raises:
        UserError: There are none.
    """
    for folder in (state / name / "weights", init / name if init else state / name / "weights"):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"the stage {name!r} has no weights in {state}: train it first, or name a folder with --init"
    )


def text_encoder_of(folder: Path) -> Any:
    """The text tower of a CLIPModel folder as a CLIPTextModel, fp32."""
    clip = CLIPModel.from_pretrained(str(folder), torch_dtype=torch.float32)
    encoder: Any = CLIPTextModel(clip.config.text_config)  # type: ignore[arg-type]
    encoder.load_state_dict(clip.text_model.state_dict())
    return encoder.eval()


def ddim_scheduler() -> Any:
    """The sampler of the recipe: DDIM with Stable Diffusion v1.5's betas."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def assemble(state: Path, out: Path, init: Path | None = None) -> None:
    """Write the pipeline of the stages' averaged weights, fp16, in diffusers' layout.

    ``StableDiffusionPipeline.from_pretrained`` loads it; the text encoder's configuration names float32, so
    that a plain load computes in fp32 throughout.

    Args:
        state: Folder of the stages.
        out: Folder of the pipeline.
        init: Folder of weights for stages that ``state`` lacks.
    """
    text = weights(state, init, "text")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(
            str(weights(state, init, "autoencoder")), torch_dtype=torch.float16
        ),
        text_encoder=text_encoder_of(text).half(),
        tokenizer=load_tokenizer(text),
        unet=UNet2DConditionModel.from_pretrained(
            str(weights(state, init, "unet")), torch_dtype=torch.float16
        ),
        scheduler=ddim_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(out))
    name_float32(out / "text_encoder" / "config.json")
    for part in ("vae", "unet"):  # the folders they were read from are nobody's business
        path = out / part / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
