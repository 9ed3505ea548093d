"""Loading: parts are built on the meta device and filled one after the other, in the dtype they will have.

Weights stay mapped to their files while the dtypes agree. Where they do not, they are converted tensor by
tensor and the file's memory is let go, so that host memory never holds more than one part twice.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lightning_drift.common.errors import UserError, notice
from lightning_drift.supir.memory.mapped import let_go
from lightning_drift.supir.network import layout
from lightning_drift.supir.network.autoencoder import FirstStage
from lightning_drift.supir.network.conditioning import TextEncoders
from lightning_drift.supir.network.control import ControlEncoder
from lightning_drift.supir.network.sdxl import SDXL_CONFIGS, SdxlBase, open_file, open_sdxl
from lightning_drift.supir.network.unet import SupirNetwork
from lightning_drift.weights import ldm_names
from lightning_drift.weights.files import Weights, listed, sha256


@dataclass(frozen=True)
class Checkpoints:
    """The two models that SUPIR is made of, opened but not yet read.

    Attributes:
        supir: SUPIR's own weights under their official names.
        sdxl: The base.
    """

    supir: Weights
    sdxl: SdxlBase

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

        Weights of SUPIR's file that nothing uses are told in a notice.

        Raises:
            UserError: Something is missing or of another shape.
        """
        unet, vae = self.sdxl.configs["unet"], self.sdxl.configs["vae"]
        network, stage, text = empty_network(unet), empty_first_stage(vae), empty_text_encoders(self.sdxl)
        for module, part, title in (
            (network.unet, "unet", "UNet"),
            (stage.vae, "vae", "autoencoder"),
            (text.clip_l, "text_encoder", "first text encoder"),
            (text.bigg, "text_encoder_2", "second text encoder"),
        ):
            expected = _plain_names(module)
            weights, called = self.sdxl.read_part(part, expected)
            compare(expected, weights, called, title)
        used = set(layout.STRAY_KEYS)
        for whole, part, title, names in (
            (network, "control", "control encoder", layout.network_names),
            (network, "project_modules", "adapters", layout.network_names),
            (stage, "denoise_encoder", "denoise encoder", layout.first_stage_names),
        ):
            expected, weights, called = self._own(whole, part, names)
            compare(expected, weights, called, title)
            used.update(called.values())
        if unknown := [key for key in self.supir.shapes if key not in used]:
            shown = listed(unknown)
            notice(f"{self.supir.origin} holds {len(unknown)} weights that SUPIR v0 does not use: {shown}")

    def hashes(self) -> dict[str, str]:
        """The first 10 digits of each model's SHA-256 in hex (of a folder, that of its files' hashes)."""
        files = self.sdxl.files
        digests = "".join(sha256(file) for file in files)
        base = digests if len(files) == 1 else hashlib.sha256(digests.encode()).hexdigest()
        return {"SUPIR hash": sha256(self.supir.files[0])[:10], "Model hash": base[:10]}

    def _fill_from_base(self, module: nn.Module, part: str, title: str, dtype: torch.dtype) -> None:
        weights, called = self.sdxl.read_part(part, _plain_names(module))
        fill(module, weights, called, title, dtype)

    def _own(
        self, whole: nn.Module, part: str, names: Callable[..., dict[str, str]]
    ) -> tuple[dict[str, tuple[int, ...]], Weights, dict[str, str]]:
        config = self.sdxl.configs["unet" if isinstance(whole, SupirNetwork) else "vae"]
        expected = {
            name.removeprefix(f"{part}."): tuple(tensor.shape)
            for name, tensor in whole.state_dict().items()
            if name.startswith(f"{part}.")
        }
        full = names([f"{part}.{name}" for name in expected], _defaults(whole, config))
        called = {name.removeprefix(f"{part}."): key for name, key in full.items()}
        held = {name: key for name, key in called.items() if key in self.supir.shapes}
        return expected, self.supir.renamed(held), called

    def _fill_from_supir(
        self,
        whole: nn.Module,
        part: str,
        title: str,
        names: Callable[..., dict[str, str]],
        dtype: torch.dtype,
    ) -> None:
        _, weights, called = self._own(whole, part, names)
        fill(whole.get_submodule(part), weights, called, title, dtype)


def open_checkpoints(
    supir: Path, sdxl: Path, configs: Mapping[str, dict[str, Any]] = SDXL_CONFIGS
) -> Checkpoints:
    """Open SUPIR's own file and the SDXL base, and check them without reading weights.

    Args:
        supir: ``SUPIR-v0Q.ckpt``, ``SUPIR-v0F.ckpt`` or their pruned ``.safetensors``.
        sdxl: An SDXL single-file checkpoint or diffusers folder.
        configs: The configurations that a single file is taken to have.

    Raises:
        UserError: A file is missing, damaged, swapped with the other, incomplete or of another kind.
    """
    if supir.is_dir():
        raise UserError(f"supir: {supir} is a folder; give the file SUPIR-v0Q.ckpt or SUPIR-v0F.ckpt")
    own = open_file(supir)
    if not any(key.startswith(layout.CONTROL_PREFIX) for key in own.shapes):
        what = "is not a SUPIR checkpoint: it holds no control encoder."
        if any(key.startswith(ldm_names.UNET_PREFIX) for key in own.shapes):
            what = "is a Stable Diffusion checkpoint, not SUPIR's; were `supir` and `sdxl` swapped?"
        raise UserError(f"supir: {supir} {what} Give SUPIR-v0Q.ckpt or SUPIR-v0F.ckpt")
    _refuse_scaled(own)
    found = Checkpoints(own, open_sdxl(sdxl, configs))
    found.check()
    return found


def _refuse_scaled(weights: Weights) -> None:
    scaled = [key for key in weights.shapes if key.endswith((".scale_weight", "scaled_fp8", ".weight_scale"))]
    if scaled:
        raise UserError(
            f"{weights.origin} is a scaled 8-bit file (it holds {listed(scaled)}); plain float8_e4m3fn, "
            "float16 and float32 files are read"
        )


# -- empty models ----------------------------------------------------------------------------------


def empty_network(config: Mapping[str, Any]) -> SupirNetwork:
    """The network of a UNet's configuration, on the meta device."""
    with torch.device("meta"):
        return SupirNetwork(_unet(config), ControlEncoder(_unet(config)))


def empty_first_stage(config: Mapping[str, Any]) -> FirstStage:
    """The first stage of an autoencoder's configuration, on the meta device."""
    with torch.device("meta"):
        vae, second = (AutoencoderKL.from_config(plain(config)) for _ in range(2))
        return FirstStage(vae, second.encoder)


def empty_text_encoders(base: SdxlBase) -> TextEncoders:
    """Both text encoders of a base, on the meta device."""
    kinds: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    with torch.device("meta"):
        clip_l, bigg = (
            kind._from_config(CLIPTextConfig(**plain(base.configs[part])), attn_implementation="sdpa")
            for part, kind in kinds.items()
        )
    return TextEncoders(clip_l, bigg, base.tokenizer, base.configs["unet"]["addition_time_embed_dim"])


def _unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_config(plain(config))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what says only who wrote it and how it is stored."""
    noise = {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version"}
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in noise}


def _defaults(whole: nn.Module, config: Mapping[str, Any]) -> Mapping[str, Any]:
    model: Any = whole.unet if isinstance(whole, SupirNetwork) else whole.vae
    return {**model.config, **plain(config)}


# -- filling ---------------------------------------------------------------------------------------


def _plain_names(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix("text_model."): tuple(t.shape) for name, t in module.state_dict().items()}


def compare(
    expected: Mapping[str, tuple[int, ...]], weights: Weights, called: Mapping[str, str], title: str
) -> None:
    """Check that every weight is there with its shape.

    Args:
        expected: Names and shapes that the model needs; a file may add trailing dimensions of size 1.
        weights: What the file holds, under the same names.
        called: What the file calls each, for the message.
        title: What to call the part.

    Raises:
        UserError: Weights are missing or of another shape; the message names them.
    """
    faults = []
    if missing := [called[name] for name in expected if name not in weights.shapes]:
        faults.append(f"missing {listed(missing)}")
    if misshapen := [
        f"{called[name]} {list(weights.shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in weights.shapes and _squeezed(weights.shapes[name]) != _squeezed(shape)
    ]:
        faults.append(f"of another shape: {listed(misshapen)}")
    if faults:
        raise UserError(f"the {title} in {weights.origin} does not fit: {'; '.join(faults)}")


def fill(
    module: nn.Module, weights: Weights, called: Mapping[str, str], title: str, dtype: torch.dtype
) -> None:
    """Give a module on the meta device its weights, strictly, each cast to `dtype` as it is read.

    Raises:
        UserError: Weights are missing, of another shape, not floating point, or cannot be read.
    """
    compare(_plain_names(module), weights, called, title)
    state = {}
    for full, empty in module.state_dict().items():
        name = full.removeprefix("text_model.")
        try:
            tensor = weights.read(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise UserError(
                f"{weights.origin}: {called[name]} cannot be read ({error}); fetch the file again"
            ) from error
        if not tensor.is_floating_point():
            raise UserError(f"{weights.origin}: {called[name]} is {tensor.dtype}, not floating point")
        state[full] = tensor.to(dtype).reshape(empty.shape).contiguous()
        if state[full].data_ptr() != tensor.data_ptr():
            let_go(tensor)  # the file's own memory, now that there is a copy
    module.load_state_dict(state, strict=True, assign=True)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
