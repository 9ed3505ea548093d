"""Builds a training stage from folders, and puts finished stages together as one pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from lightning_drift.common.errors import UserError
from training.pocket.autoencoder import AutoencoderStage, new_autoencoder
from training.pocket.clip import ClipStage, load_clip, load_tokenizer, name_float32, new_clip
from training.pocket.noise_prediction import ddim_scheduler
from training.pocket.run import Schedule, Stage, check_stage
from training.pocket.scenes import Scenes
from training.pocket.unet import LatentScenes, UNetStage, new_unet

DEFAULTS: Mapping[str, Schedule] = {
    "autoencoder": Schedule(20_000, 16, 8.0e-4, seed=0),
    "text": Schedule(6_000, 128, 1.0e-3, seed=1),
    "clip": Schedule(6_000, 128, 1.0e-3, seed=2),
    "unet": Schedule(60_000, 32, 6.0e-4, seed=3),
}
"""How long and how fast each stage trains unless its command says otherwise."""


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
        UserError: There is no such stage, or one that this one needs has no weights yet.
    """
    check_stage(name, DEFAULTS)
    start = init / name if init and (init / name).is_dir() else None

    def network(load: Callable[..., Any], new: Callable[[], Any]) -> Any:
        if start:
            return load(str(start), torch_dtype=torch.float32)
        with schedule.initialisation():
            return new()

    if name == "autoencoder":
        vae = network(AutoencoderKL.from_pretrained, new_autoencoder)
        return AutoencoderStage(vae, schedule, scenes, freeze_encoder=freeze_encoder)
    if name in ("text", "clip"):
        tokenizer = load_tokenizer(start)
        model = network(lambda folder, **_: load_clip(Path(folder)), lambda: new_clip(tokenizer))
        return ClipStage(model, tokenizer, schedule, scenes, jitter=name == "clip")
    vae = AutoencoderKL.from_pretrained(str(weights(state, init, "autoencoder")), torch_dtype=torch.float32)
    text = weights(state, init, "text")
    latents = LatentScenes(scenes, vae)
    unet = network(UNet2DConditionModel.from_pretrained, new_unet)
    return UNetStage(unet, text_encoder_of(text), load_tokenizer(text), schedule, latents)


def weights(state: Path, init: Path | None, name: str) -> Path:
    """The folder with the averaged weights of a stage: of its own training, or those to begin with.

    Raises:
        UserError: There are none.
    """
    for folder in (state / name / "weights", init / name if init else state / name / "weights"):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"the stage {name!r} has no weights in {state}: train it first, or name a folder that holds them",
        "--init",
    )


def text_encoder_of(folder: Path) -> Any:
    """The text tower of a CLIPModel folder as a CLIPTextModel, fp32."""
    clip = load_clip(folder)
    encoder: Any = CLIPTextModel(clip.config.text_config)
    encoder.load_state_dict(clip.text_model.state_dict())
    return encoder.eval()


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
