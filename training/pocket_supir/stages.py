"""Builds a training stage of the pocket's SUPIR from folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import nn

from lightning_drift.assets import POCKET
from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.supir.network.autoencoder import SCALING, FirstStage
from lightning_drift.supir.network.conditioning import TextEncoders
from lightning_drift.supir.network.unet import SupirNetwork
from training.pocket.noise_prediction import noise_schedule
from training.pocket.run import Schedule, Stage, check_stage
from training.pocket.scenes import Scenes
from training.pocket_supir.autoencoder import DenoiseEncoderStage, PrintAutoencoderStage
from training.pocket_supir.latent_pairs import LatentPairs, LatentSquares
from training.pocket_supir.models import new_first_stage, new_network, new_unet, new_vae, to_unit_scale
from training.pocket_supir.network import BaseStage, ControlStage, calibrate
from training.pocket_supir.text import condition, pocket_text_encoders

DEFAULTS: Mapping[str, Schedule] = {
    "autoencoder": Schedule(6_000, 8, 6.0e-4, seed=10),
    "decoder": Schedule(4_000, 8, 6.0e-4, seed=11),
    "denoise": Schedule(3_000, 16, 6.0e-4, seed=12),
    "base": Schedule(20_000, 16, 1.0e-3, seed=13),
    "control": Schedule(20_000, 8, 6.0e-4, seed=14),
}
"""How long and how fast each stage trains unless its command says otherwise."""


def build_stage(
    name: str,
    state: Path,
    schedule: Schedule,
    scenes: Scenes,
    side: int = 128,
    variants: int = 2,
    workers: int = 0,
    init: Path | None = None,
) -> Stage:
    """A stage ready to train.

    Args:
        name: One of `DEFAULTS`.
        state: Folder of all stages; later stages read the averaged weights of earlier ones from it.
        schedule: How long and how fast.
        scenes: Scenes at print size.
        side: Side in pixels of the squares of prints that are trained on.
        variants: Squares of a scene, each with its own degradation, that the networks train on.
        workers: Processes that prepare batches; with any, the latents of all squares are cached first.
        init: Folder of stages, whose averaged weights of this one base and control begin with.

    Raises:
        UserError: There is no such stage, one that this one needs has no weights yet, or there are workers
            and no cache.
    """
    check_stage(name, DEFAULTS)
    with schedule.initialisation():
        if name == "autoencoder":
            return PrintAutoencoderStage(new_vae(pocket_vae()), schedule, scenes, side)
        if name == "decoder":
            return PrintAutoencoderStage(trained_vae(state), schedule, scenes, side, freeze_encoder=True)
        if name == "denoise":
            stage = new_first_stage(scaled_vae(state))
            return DenoiseEncoderStage(stage.denoise_encoder, stage.vae, pocket_vae(), schedule, scenes, side)
        text = pocket_text_encoders()
        if name == "base":
            squares = LatentSquares(scenes, scaled_vae(state), variants, side)
            if workers:
                squares.prepare(workers)
            return BaseStage(base_unet(init) if init else new_unet(), text, schedule, squares)
        pairs = LatentPairs(scenes, first_stage(state), pocket_vae(), variants, side)
        if workers:
            pairs.prepare(workers)
        network = new_network(base_unet(state))
        if init:
            _load(_trained_parts(network), init, "control")
        else:
            _calibrate(network, text, pairs, schedule.seed)
        return ControlStage(network, text, schedule, pairs)


def encode(state: Path, scenes: Scenes, side: int, variants: int, workers: int) -> None:
    """Cache the latents that the stage ``control`` trains on, beside a training of ``base``.

    Args:
        state: Folder of all stages.
        scenes: Scenes at print size, with a cache.
        side: As for `build_stage`.
        variants: As for `build_stage`.
        workers: Processes that cut and degrade squares.
    """
    LatentPairs(scenes, first_stage(state), pocket_vae(), variants, side).prepare(workers)


def pocket_vae() -> Any:
    """The pocket's own autoencoder, fp32."""
    return _vae(POCKET / "vae").eval()


def trained_vae(state: Path) -> Any:
    """The autoencoder as far as it is trained: the pocket's own where no stage of it has run, fp32."""
    for name in ("decoder", "autoencoder"):
        if (state / name / "weights" / "config.json").is_file():
            return _vae(state / name / "weights")
    return new_vae(pocket_vae())


def scaled_vae(state: Path) -> Any:
    """The autoencoder as far as it is trained, with latents that SDXL's scaling factor fits."""
    vae = trained_vae(state)
    to_unit_scale(vae, 1 / vae.config.scaling_factor)
    vae.register_to_config(scaling_factor=SCALING)
    return vae


def first_stage(state: Path) -> FirstStage:
    """The trained first stage, fp32."""
    stage = new_first_stage(scaled_vae(state))
    _load(stage.denoise_encoder, state, "denoise")
    return stage.eval()


def base_unet(state: Path) -> Any:
    """The trained base, fp32."""
    unet = new_unet()
    _load(unet, state, "base")
    return unet.eval()


def trained_network(state: Path) -> SupirNetwork:
    """The trained network, fp32."""
    network = new_network(base_unet(state))
    _load(_trained_parts(network), state, "control")
    return network.eval()


def _trained_parts(network: SupirNetwork) -> nn.ModuleDict:
    return nn.ModuleDict({"control": network.control, "project": network.project_modules})


def _vae(folder: Path) -> Any:
    return AutoencoderKL.from_pretrained(str(folder), torch_dtype=torch.float32)


def _load(module: nn.Module, state: Path, name: str) -> None:
    path = state / name / "weights" / "model.safetensors"
    if not path.is_file():
        raise UserError(f"the stage {name!r} has no weights in {state}: train it first")
    module.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})


@torch.no_grad()
def _calibrate(network: SupirNetwork, text: TextEncoders, pairs: LatentPairs, seed: int) -> None:
    random = generator(seed, "calibration")
    indices = list(range(min(64, pairs.count)))
    latents = pairs.images(indices)
    steps = torch.randint(0, 1000, (len(indices),), generator=random)
    noise = torch.randn(latents[:, :4].shape, generator=random)
    noised = noise_schedule().add_noise(latents[:, :4], noise, steps)
    cond = condition(text, pairs.captions(indices, 0))
    calibrate(network, (noised, steps, cond.context, cond.vector, latents[:, 4:]))
