"""The golden data and the tiny SUPIR whose weights it was made with."""

import json
from functools import cache

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.paths import DATA
from lightning_drift.supir.network.autoencoder import FirstStage
from lightning_drift.supir.network.control import ControlEncoder
from lightning_drift.supir.network.layout import first_stage_names, network_names
from lightning_drift.supir.network.unet import SupirNetwork

FOLDER = DATA / "supir"

UNET = {
    "sample_size": 16,
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 1, 2],
    "attention_head_dim": [2, 4, 4],
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 96,
    "norm_num_groups": 32,
}
VAE = {
    "block_out_channels": [32, 64, 32, 32],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.13025,
}


@cache
def golden(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


@cache
def official_weights() -> dict[str, Tensor]:
    """The tiny weights under the official names, exact in float32."""
    weights = {}
    for path in sorted(FOLDER.glob("tiny_*.int8.safetensors")):
        with safe_open(path, "pt") as file:
            exponents = json.loads(file.metadata()["exponents"])
            for key in file.keys():  # noqa: SIM118
                weights[key] = torch.ldexp(file.get_tensor(key).float(), torch.tensor(exponents[key]))
    return weights


def load(module: nn.Module, names: dict[str, str]) -> nn.Module:
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    module.load_state_dict(
        {name: official_weights()[key].reshape(shapes[name]) for name, key in names.items()}
    )
    return module.eval().requires_grad_(False)


def tiny_network() -> SupirNetwork:
    def unet() -> UNet2DConditionModel:
        return UNet2DConditionModel.from_config(UNET)

    network = SupirNetwork(unet(), ControlEncoder(unet()))
    return load(network, network_names(network.state_dict(), network.unet.config))


def tiny_first_stage() -> FirstStage:
    stage = FirstStage(AutoencoderKL.from_config(VAE), AutoencoderKL.from_config(VAE).encoder)
    return load(stage, first_stage_names(stage.state_dict(), stage.vae.config))


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative error in the 2-norm."""
    assert found.shape == expected.shape
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())
