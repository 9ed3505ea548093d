"""Loading: parts are built on the meta device and filled one after the other, in the dtype they will have.

Weights stay mapped to their files while the dtypes agree. Where they do not, they are converted tensor by
tensor and the file's memory is let go, so that host memory never holds more than one part twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.text import listed
from lightning_drift.supir.network import layout
from lightning_drift.supir.network.autoencoder import FirstStage
from lightning_drift.supir.network.conditioning import TextEncoders
from lightning_drift.supir.network.control import ControlEncoder
from lightning_drift.supir.network.lora import LoraFile, with_loras
from lightning_drift.supir.network.sdxl import SDXL_CONFIGS, SdxlBase, open_sdxl
from lightning_drift.supir.network.unet import SupirNetwork
from lightning_drift.supir.network.vae import Autoencoder, open_vae, with_vae
from lightning_drift.weights import ldm_names
from lightning_drift.weights.configs import describing, model_options
from lightning_drift.weights.files import Weights, open_weights
from lightning_drift.weights.fill import compare, fill
from lightning_drift.weights.hashes import files_hash, sha256


@dataclass(frozen=True)
class Checkpoints:
    """The two models that SUPIR is made of, opened but not yet read.

    Attributes:
        supir: SUPIR's own weights under their official names.
        sdxl: The base, with the autoencoder and the LoRAs below.
        vae: The autoencoder in place of the base's own; None for that.
        loras: What was added to the base.
    """

    supir: Weights
    sdxl: SdxlBase
    vae: Autoencoder | None = None
    loras: Sequence[LoraFile] = ()

    def network(self, dtype: torch.dtype) -> SupirNetwork:
        """UNet, control encoder and adapters, on the CPU."""
        network = empty_network(self.sdxl.configs["unet"])
        self._fill_from_base(network.unet, "unet", "UNet", dtype)
        for part, title in (("control", "control encoder"), ("project_modules", "adapters")):
            self._fill_from_supir(network, part, title, layout.network_names, dtype)
        return network.eval().requires_grad_(False)

    def first_stage(self, dtype: torch.dtype) -> FirstStage:
        """Autoencoder and denoise encoder, on the CPU."""
        stage = empty_first_stage(self.sdxl.configs["vae"])
        self._fill_from_base(stage.vae, "vae", "autoencoder", dtype)
        self._fill_from_supir(stage, "denoise_encoder", "denoise encoder", layout.first_stage_names, dtype)
        return stage.eval().requires_grad_(False)

    def text_encoders(self, dtype: torch.dtype) -> TextEncoders:
        """Both text encoders and the tokenizer, on the CPU."""
        encoders = empty_text_encoders(self.sdxl)
        self._fill_from_base(encoders.clip_l, "text_encoder", "first text encoder", dtype)
        self._fill_from_base(encoders.bigg, "text_encoder_2", "second text encoder", dtype)
        for model in (encoders.clip_l, encoders.bigg.text_model):
            # The one buffer that no file holds: transformers keeps it out of the state dict.
            positions = torch.arange(model.config.max_position_embeddings)
            model.embeddings.position_ids = positions.expand((1, -1))
        return encoders.eval().requires_grad_(False)

    def check(self) -> None:
        """Compare names and shapes of everything with what the models need, reading no weights.

        A notice names the weights of SUPIR's file that nothing uses.

        Raises:
            UserError: Something is missing or of another shape, in the option ``model.sdxl``,
                ``model.vae`` or ``model.supir``.
        """
        unet, vae = self.sdxl.configs["unet"], self.sdxl.configs["vae"]
        with _naming("model.sdxl"):
            network, stage, text = empty_network(unet), empty_first_stage(vae), empty_text_encoders(self.sdxl)
        self._check_base(network, stage, text)
        with _naming("model.sdxl"):
            _check_runs(network, stage, text)
        with _naming("model.supir"):
            self._check_own(network, stage)

    def _check_base(self, network: SupirNetwork, stage: FirstStage, text: TextEncoders) -> None:
        for module, part, title in (
            (network.unet, "unet", "UNet"),
            (stage.vae, "vae", "autoencoder"),
            (text.clip_l, "text_encoder", "first text encoder"),
            (text.bigg, "text_encoder_2", "second text encoder"),
        ):
            weights, stored = self.sdxl.read_part(part, module.state_dict())
            with _naming("model.vae" if part == "vae" and self.vae else "model.sdxl"):
                compare(module, weights, title, stored)

    def _check_own(self, network: SupirNetwork, stage: FirstStage) -> None:
        used = set(layout.STRAY_KEYS)
        for whole, part, title, names in (
            (network, "control", "control encoder", layout.network_names),
            (network, "project_modules", "adapters", layout.network_names),
            (stage, "denoise_encoder", "denoise encoder", layout.first_stage_names),
        ):
            weights, stored = self._own(whole, part, names)
            compare(whole.get_submodule(part), weights, title, stored)
            used.update(stored.values())
        if unknown := [key for key in self.supir.shapes if key not in used]:
            shown = listed(unknown)
            notice(f"{self.supir.origin} holds {len(unknown)} weights that SUPIR v0 does not use: {shown}")

    def hashes(self) -> dict[str, str]:
        """The first 10 digits of each model's SHA-256 in hex (of a folder, see ``files_hash``).

        Returns:
            The hashes as image metadata call them; LoRAs with their names and weights.
        """
        hashes = {
            "SUPIR hash": sha256(self.supir.files[0])[:10],
            "Model hash": files_hash(self.sdxl.files)[:10],
        }
        if self.vae is not None:
            hashes["VAE hash"] = files_hash({file.name: file for file in self.vae.weights.files})[:10]
        if self.loras:
            hashes["LoRA"] = ", ".join(
                f"{lora.path.stem}:{lora.weight:g} {sha256(lora.path)[:10]}" for lora in self.loras
            )
        return hashes

    def _fill_from_base(self, module: nn.Module, part: str, title: str, dtype: torch.dtype) -> None:
        weights, stored = self.sdxl.read_part(part, module.state_dict())
        fill(module, weights, title, dtype, stored=stored, mapped=True)

    def _own(
        self, whole: nn.Module, part: str, names: Callable[..., dict[str, str]]
    ) -> tuple[Weights, dict[str, str]]:
        """The weights of a submodule in SUPIR's file under their names in it, and the file's names."""
        config = self.sdxl.configs["unet" if isinstance(whole, SupirNetwork) else "vae"]
        needed = [f"{part}.{name}" for name in whole.get_submodule(part).state_dict()]
        full = names(needed, _defaults(whole, config))
        stored = {name.removeprefix(f"{part}."): key for name, key in full.items()}
        held = {name: key for name, key in stored.items() if key in self.supir.shapes}
        return self.supir.renamed(held), stored

    def _fill_from_supir(
        self,
        whole: nn.Module,
        part: str,
        title: str,
        names: Callable[..., dict[str, str]],
        dtype: torch.dtype,
    ) -> None:
        weights, stored = self._own(whole, part, names)
        fill(whole.get_submodule(part), weights, title, dtype, stored=stored, mapped=True)


def open_checkpoints(
    supir: Path,
    sdxl: Path,
    configs: Mapping[str, dict[str, Any]] = SDXL_CONFIGS,
    vae: Path | None = None,
    loras: Sequence[LoraFile] = (),
) -> Checkpoints:
    """Open SUPIR's own file and the SDXL base, and check them without reading weights.

    Args:
        supir: ``SUPIR-v0Q.ckpt``, ``SUPIR-v0F.ckpt`` or their pruned ``.safetensors``.
        sdxl: An SDXL single-file checkpoint or diffusers folder.
        configs: The configurations that a single file is taken to have.
        vae: An autoencoder in place of the base's own (see `open_vae`); None for that.
        loras: LoRAs to add to the base's UNet and text encoders; SUPIR's control encoder stays as it is.

    Raises:
        UserError: A file is missing, damaged, swapped with the other, incomplete or of another kind; its
            option is ``model.supir``, ``model.sdxl``, ``model.vae`` or ``model.lora``.
    """
    with _naming("model.supir"):
        own = _open_supir(supir)
    with _naming("model.sdxl"):
        base = open_sdxl(sdxl, configs, own_vae=vae is None)
    autoencoder = None
    if vae is not None:
        with _naming("model.vae"):
            autoencoder = open_vae(vae)
            base = with_vae(base, autoencoder)
    opened = Checkpoints(own, base, autoencoder, loras)
    opened.check()
    if loras:
        text = empty_text_encoders(base)
        unet = empty_network(base.configs["unet"]).unet
        models = {"unet": unet, "text_encoder": text.clip_l, "text_encoder_2": text.bigg}
        with _naming("model.lora"):
            opened = replace(opened, sdxl=with_loras(base, models, loras))
    return opened


def _open_supir(supir: Path) -> Weights:
    if supir.is_dir():
        raise UserError(f"{supir} is a folder; give the file SUPIR-v0Q.ckpt or SUPIR-v0F.ckpt")
    own = open_weights(supir)
    if not any(key.startswith(layout.CONTROL_PREFIX) for key in own.shapes):
        what = "is not a SUPIR checkpoint: it holds no control encoder."
        if any(key.startswith(ldm_names.UNET_PREFIX) for key in own.shapes):
            what = "is a Stable Diffusion checkpoint, not SUPIR's; were `supir` and `sdxl` swapped?"
        raise UserError(f"{supir} {what} Give SUPIR-v0Q.ckpt or SUPIR-v0F.ckpt")
    return own


@contextmanager
def _naming(option: str) -> Iterator[None]:
    """Give every error inside the option whose value is at fault."""
    try:
        yield
    except UserError as error:
        raise error.of(option) from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror or error}", option) from error


# -- empty models ----------------------------------------------------------------------------------


def empty_network(config: Mapping[str, Any]) -> SupirNetwork:
    """The network of a UNet's configuration, on the meta device."""
    with _describing("UNet"), torch.device("meta"):
        return SupirNetwork(_unet(config), ControlEncoder(_unet(config)))


def empty_first_stage(config: Mapping[str, Any]) -> FirstStage:
    """The first stage of an autoencoder's configuration, on the meta device."""
    with _describing("autoencoder"), torch.device("meta"):
        vae, second = (AutoencoderKL.from_config(model_options(config)) for _ in range(2))
        return FirstStage(vae, second.encoder)


def empty_text_encoders(base: SdxlBase) -> TextEncoders:
    """Both text encoders of a base, on the meta device."""
    kinds: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    models = []
    for part, kind in kinds.items():
        options = model_options(base.configs[part])
        with _describing(part.replace("_", " ")), torch.device("meta"):
            models.append(kind._from_config(CLIPTextConfig(**options), attn_implementation="sdpa"))
    clip_l, bigg = models
    return TextEncoders(
        clip_l, bigg, base.tokenizer, base.configs["unet"].get("addition_time_embed_dim") or 256
    )


def _describing(part: str) -> AbstractContextManager[None]:
    return describing(f"the config of the base's {part}", "part of an SDXL model")


@torch.no_grad()
def _check_runs(network: SupirNetwork, stage: FirstStage, text: TextEncoders) -> None:
    """Let the models, on the meta device, compute once: it takes no memory and shows whether they can.

    Raises:
        UserError: One cannot: a value of its config was accepted and makes no sense.
    """
    with torch.device("meta"):
        side = 2 ** (len(network.unet.config["block_out_channels"]) + 1)
        latent = torch.zeros((1, 4, side, side))
        states = []
        for part, model in (("text encoder", text.clip_l), ("text encoder 2", text.bigg)):
            with _describing(part):
                output = model(torch.zeros((1, 8), dtype=torch.long), output_hidden_states=True)
                states.append(output.hidden_states[-2])
        with _describing("UNet"):
            sizes = torch.zeros((1, 6 * text.time_embed_dim))
            vector = torch.cat([output.text_embeds, sizes], dim=-1)
            network(latent, torch.zeros(1), torch.cat(states, dim=-1), vector, latent)
        with _describing("autoencoder"):
            stage.vae.encode(stage.vae.decode(latent)[0]).latent_dist.mean + latent


def _unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_config(model_options(config))


def _defaults(whole: nn.Module, config: Mapping[str, Any]) -> Mapping[str, Any]:
    model: Any = whole.unet if isinstance(whole, SupirNetwork) else whole.vae
    return {**model.config, **model_options(config)}
