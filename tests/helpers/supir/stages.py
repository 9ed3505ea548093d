"""Stages of the pocket's SUPIR at the smallest size."""

from dataclasses import replace
from pathlib import Path

from training.pocket.run import Schedule, Stage
from training.pocket.scenes import Scenes
from training.pocket_supir.stages import DEFAULTS, build_stage

STAGES = ("autoencoder", "denoise", "base", "control")
"""Each needs those before it."""

SIDE = 64
"""Of the prints, in pixels; squares of 32 are cut from them."""


def schedule(name: str, steps: int) -> Schedule:
    return replace(DEFAULTS[name], steps=steps, batch_size=2, warmup=2)


def stage_of(name: str, state: Path, steps: int, init: Path | None = None) -> Stage:
    return build_stage(name, state, schedule(name, steps), Scenes(0, 8, SIDE), side=32, init=init)
