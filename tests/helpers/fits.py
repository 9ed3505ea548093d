"""Short fits, and the checkpoint that a fit leaves."""

from pathlib import Path
from typing import Any

import bitsandbytes
import torch

from helpers.stand_ins import Latents
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.stable_diffusion.loading import load_stable_diffusion
from lightning_drift.stable_diffusion.opened_pipeline import PARTS

PROMPT = "a photo of sks person"


def fit(
    tiny_sd: str, trainer: Any, folder: Path, steps: int, resume: Path | None = None, **options: Any
) -> dict[str, Any]:
    """Train on the CPU and return the checkpoint of the last step."""
    accumulate, grid = options.pop("accumulate", 1), options.pop("grid", False)
    checkpoint = StepCheckpoint(options.pop("save", "2"), last_every_n_steps=1, dirpath=str(folder))
    module = DreamBooth(
        tiny_sd,
        optimizer=options.pop("optimizer", bitsandbytes.optim.AdamW8bit),
        learning_rate=1e-4,
        **options.pop("model", {}),
    )
    callbacks: list[Any] = [checkpoint]
    if grid:
        groups = {"dream": {"prompts": "a tree", "seeds": "0-1"}}
        callbacks.append(SeedGrid("0,1,3", groups, num_inference_steps=2, batch_size=2))
    run = trainer(max_steps=steps, accumulate_grad_batches=accumulate, callbacks=callbacks, **options)
    run.fit(module, datamodule=Latents(), ckpt_path=resume)
    return read_checkpoint(folder / "last.ckpt")


def states(model):
    return {f"{part}.{k}": t for part in PARTS for k, t in getattr(model, part).state_dict().items()}


def fit_checkpoint(path: Path, base: str, change=lambda key, tensor: tensor * 1.01) -> Path:
    """What a fit saves: changed UNet and text encoder and the recipe."""
    model = load_stable_diffusion(base)
    state = {k: change(k, t) for k, t in states(model).items() if not k.startswith("vae.")}
    recipe = {
        "base": model.source,
        "instance_prompt": PROMPT,
        "learning_rate": 2e-6,
        "clip_grad_norm": None,
        "precision": "16-mixed",
        "resolution": 64,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "recipe": recipe, "global_step": 1200}, path)
    return path
