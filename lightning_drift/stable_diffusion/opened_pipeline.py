"""Where the parts of a Stable Diffusion pipeline lie, and the models that await their weights."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.numbers import shown
from lightning_drift.weights.configs import check_config, describing, model_options
from lightning_drift.weights.files import Weights

PARTS = ("unet", "text_encoder", "vae")
TRAINED = ("unet", "text_encoder")
"""The parts that a fit changes."""

_MODEL = "Stable Diffusion 1.x model"
_FAMILY = "lightning-drift fine-tunes Stable Diffusion 1.x text-to-image models"
_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
_FOREIGN_OPTIONS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


@dataclass(frozen=True)
class OpenedPipeline:
    """A pipeline opened but not yet read: weights beside the configs that they belong to.

    Attributes:
        source: What loads it again: ``pocket``, a hub id, or an absolute path.
        revision: The hub commit, for a hub id.
        configs: The config of each of ``PARTS``.
        weights: The weights of each of ``PARTS``, under the names of diffusers and transformers.
        tokenizer: The prompt's tokenizer.
        scheduler_config: The noise schedule, as in ``scheduler_config.json``.
        files: The weight files, by the name they have in the model's hash.
        recipe: How it was fine-tuned, where the files tell.
        step: Optimizer steps of the fine-tune, where the files tell.
        base: The pipeline it was fine-tuned from, where that had to be opened to find the rest.
    """

    source: str
    revision: str | None
    configs: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Weights]
    tokenizer: CLIPTokenizer
    scheduler_config: dict[str, Any]
    files: Mapping[str, Path]
    recipe: dict[str, Any] | None = None
    step: int | None = None
    base: "OpenedPipeline | None" = None


def wrong_family(origin: str, what: str) -> UserError:
    """The sentence for a model of another kind in Stable Diffusion 1.x's place."""
    return UserError(f"{origin} is {what}; {_FAMILY}")


def empty_models(configs: Mapping[str, Mapping[str, Any]], origin: str) -> dict[str, nn.Module]:
    """The models of the configs, in eval mode, on the meta device, where making them draws no randomness.

    Dropout is set to 0 with a notice, since it would tie a step's result to the global generator.

    Raises:
        UserError: The configs are damaged or describe another family of models.
    """
    for part in PARTS:
        check_config(configs[part], config_name(part, origin))
    _check_family(configs, origin)
    unet, text, vae = (model_options(configs[part]) for part in PARTS)
    for config, part, keys in (
        (unet, "UNet", ("dropout",)),
        (text, "text encoder", ("attention_dropout", "dropout")),
    ):
        for key in keys:
            if config.get(key):
                notice(f"{key} {config[key]} of the {part} is set to 0, so that a resumed run is exact")
                config[key] = 0.0
    makers: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: UNet2DConditionModel.from_config(unet),
        "text_encoder": lambda: CLIPTextModel._from_config(  # type: ignore[no-untyped-call]
            CLIPTextConfig(**text), attn_implementation="sdpa", dtype=torch.float32
        ),
        "vae": lambda: AutoencoderKL.from_config(vae),
    }
    models = {}
    for part, make in makers.items():
        with describing(config_name(part, origin), _MODEL), torch.device("meta"), _Quiet("diffusers"):
            models[part] = make().eval()
    return models


@torch.no_grad()
def check_runs(models: Mapping[str, Any], origin: str) -> None:
    """Let models on the meta device compute once, which takes no memory and shows whether they can.

    Raises:
        UserError: One cannot: a value of its config was accepted and makes no sense.
    """
    unet, text, vae = (models[part] for part in PARTS)
    with torch.device("meta"):
        side = 2 ** len(unet.config.block_out_channels)
        latent = torch.zeros((1, 4, side, side))
        with describing(config_name("text_encoder", origin), _MODEL):
            ids = torch.zeros((1, text.config.max_position_embeddings), dtype=torch.long)
            condition = text(ids)[0]
        with describing(config_name("unet", origin), _MODEL):
            predicted = unet(latent, torch.zeros(1), condition)[0]
        with describing(config_name("vae", origin), _MODEL):
            picture = vae.decode(latent)[0]
            encoded = vae.encode(picture).latent_dist.mean
            _ = picture / vae.config.scaling_factor
    for part, tensor in (("unet", predicted), ("vae", encoded)):
        if tensor.shape != latent.shape:
            raise UserError(
                f"{config_name(part, origin)} describes no {_MODEL}: it makes latents of "
                f"{list(tensor.shape[1:])} out of {list(latent.shape[1:])}"
            )


def config_name(part: str, origin: str) -> str:
    """What messages call the config of a part: its file, where the pipeline is a folder."""
    file = Path(origin) / part / "config.json"
    return str(file) if file.is_file() else f"the config of the {part.replace('_', ' ')} of {origin}"


class _Quiet:
    """Silences a library's warnings: a config of another version may hold keys of no effect."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)


def _check_family(configs: Mapping[str, Mapping[str, Any]], origin: str) -> None:
    unet, text, vae = (configs[part] for part in PARTS)
    channels, context = unet.get("in_channels", 4), unet.get("cross_attention_dim")
    if unet.get("addition_embed_type") == "text_time" or context == 2048:
        raise wrong_family(origin, "a Stable Diffusion XL model")
    if context == 1024:
        raise wrong_family(origin, "a Stable Diffusion 2.x model")
    if channels == 9:
        raise wrong_family(origin, "an inpainting model (its UNet takes 9 channels)")
    if channels != 4:
        raise wrong_family(origin, f"a model whose UNet takes {channels} channels instead of 4")
    if vae.get("latent_channels", 4) != 4:
        raise wrong_family(
            origin, f"a model whose autoencoder has {vae['latent_channels']} latent channels instead of 4"
        )
    if not isinstance(unet.get("sample_size", 64), int):
        raise UserError(
            f"{config_name('unet', origin)} is damaged: sample_size is {shown(unet['sample_size'])}"
        )
    width = text.get("hidden_size", 512)
    if context != width:
        raise wrong_family(
            origin,
            f"a mix of parts: its UNet attends to {context} features, its text encoder gives {width}",
        )
    if not isinstance(unet.get("layers_per_block", 2), int):
        raise wrong_family(origin, "a model whose UNet has a different number of layers in each block")
    strange = [f"{key} {unet[key]}" for key in _FOREIGN_OPTIONS if unet.get(key) is not None]
    strange += [
        str(kind) for kind in {*unet.get("down_block_types", ()), *unet.get("up_block_types", ())} - _BLOCKS
    ]
    if strange:
        raise wrong_family(origin, f"a model with a UNet of another kind ({', '.join(sorted(strange))})")
