"""An autoencoder in place of the SDXL base's own: merged bases often carry a broken one."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.common.text import listed
from lightning_drift.supir.network.sdxl import SdxlBase, open_part
from lightning_drift.weights import ldm_names
from lightning_drift.weights.configs import read_model_config
from lightning_drift.weights.files import Weights, open_weights

_KIND = "AutoencoderKL"
_DECIDES = (
    *("in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block"),
    *("down_block_types", "up_block_types", "norm_num_groups", "act_fn", "mid_block_add_attention"),
    *("use_quant_conv", "use_post_quant_conv"),
    *("scaling_factor", "shift_factor", "latents_mean", "latents_std"),
)
"""What must be as in the base: the architecture, and how its latents are scaled."""


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder, opened but not yet read.

    Attributes:
        weights: Its weights as its file names them.
        config: Its configuration, where it comes with one.
    """

    weights: Weights
    config: Mapping[str, Any] | None


def open_vae(path: Path) -> Autoencoder:
    """Open an autoencoder without reading its weights.

    Args:
        path: A file, in the layout of latent diffusion (with or without ``first_stage_model.``, alone or in
            a whole checkpoint) or in that of diffusers; or a folder of diffusers', the autoencoder's own or
            a pipeline's.

    Raises:
        UserError: It is damaged or holds no autoencoder, or that of another family of models.
    """
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        if not (folder / "config.json").is_file():
            files = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".ckpt"))
            hint = f". It holds {listed(files)}: give one of these files" if files else ""
            raise UserError(f"{path} holds no autoencoder: neither vae/config.json nor config.json{hint}")
        config = read_model_config(folder / "config.json")
        if (kind := config.get("_class_name", _KIND)) != _KIND:
            raise UserError(f"{folder} holds {shown(kind)}; the autoencoder of an SDXL model is {_KIND}")
        return Autoencoder(open_part(folder), config)
    weights = open_weights(path)
    _refuse_other_families(weights)
    beside = path.with_name("config.json")
    if _is_diffusers(weights) and beside.is_file():
        config = read_model_config(beside)
        if config.get("_class_name") == _KIND:
            return Autoencoder(weights, config)
    return Autoencoder(weights, None)


def with_vae(base: SdxlBase, vae: Autoencoder) -> SdxlBase:
    """The base with another autoencoder.

    Raises:
        UserError: Its configuration differs from the base's in what decides its shape or its latents. Names
            and shapes of its weights are compared where those of the base would be.
    """
    _check_config(base, vae)
    held = vae.weights.shapes
    diffusers = _is_diffusers(vae.weights)
    current = {ldm_names.current_vae_name(key): key for key in held}
    prefix = ldm_names.VAE_PREFIX if any(key.startswith(ldm_names.VAE_PREFIX) for key in held) else ""

    def read_part(part: str, names: Iterable[str]) -> tuple[Weights, dict[str, str]]:
        if part != "vae":
            return base.read_part(part, names)
        stored = {
            name: current.get(name, name)
            if diffusers
            else prefix + ldm_names.vae_name(name, base.configs["vae"]).removeprefix(ldm_names.VAE_PREFIX)
            for name in names
        }
        return vae.weights.renamed({name: key for name, key in stored.items() if key in held}), stored

    return replace(base, read_part=read_part)


def _is_diffusers(weights: Weights) -> bool:
    return any(re.match(r"(encoder\.down|decoder\.up)_blocks\.", key) for key in weights.shapes)


def _check_config(base: SdxlBase, vae: Autoencoder) -> None:
    if vae.config is None:
        return
    given, own = (_complete(config) for config in (vae.config, base.configs["vae"]))
    differing = [
        f"{key} {shown(given[key])} instead of {shown(own[key])}"
        for key in _DECIDES
        if given[key] != own[key]
    ]
    if differing:
        family = ""
        if given["latent_channels"] == own["latent_channels"] and given["scaling_factor"] == 0.18215:
            family = "it is of a Stable Diffusion 1.x or 2.x model, whose latents are others: "
        raise UserError(f"{vae.weights.origin} does not fit the base; {family}it has {listed(differing)}")


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides of a configuration, with diffusers' values for what it leaves out; lists as in JSON."""
    parameters = inspect.signature(AutoencoderKL.__init__).parameters
    complete = {key: config.get(key, parameters[key].default) for key in _DECIDES}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in complete.items()}


def _refuse_other_families(weights: Weights) -> None:
    def has(*beginnings: str) -> bool:
        return any(key.startswith(beginnings) for key in weights.shapes)

    architecture = weights.metadata.get("modelspec.architecture", "")
    if has("cond_stage_model.") or re.match(r"stable-diffusion-v[12]\b", architecture):
        what = "of a Stable Diffusion 1.x or 2.x model, whose latents are others"
    elif has(f"{ldm_names.UNET_PREFIX}double_blocks.", f"{ldm_names.UNET_PREFIX}joint_blocks."):
        what = "of a Stable Diffusion 3 or Flux model"
    elif not has(f"{ldm_names.VAE_PREFIX}decoder.", "decoder.") or not has(
        f"{ldm_names.VAE_PREFIX}encoder.", "encoder."
    ):
        what = "no autoencoder, or half of one"
    else:
        return
    raise UserError(f"{weights.origin} is {what}; give that of an SDXL model, such as sdxl_vae.safetensors")
