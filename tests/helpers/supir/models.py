"""Tiny SUPIR and SDXL models on disk, in the layouts of the real ones."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from helpers.supir.golden import UNET, VAE, official_weights
from lightning_drift.supir.network.layout import first_stage_names, network_names
from lightning_drift.supir.network.weights import empty_first_stage, empty_network
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer

TEXT = {
    "text_encoder": {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
        "hidden_act": "quick_gelu", "projection_dim": 24,
    },
    "text_encoder_2": {
        "hidden_size": 40, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 2,
        "hidden_act": "gelu", "projection_dim": 48,
    },
}  # fmt: skip
CONFIGS = {"unet": UNET, "vae": VAE, **TEXT}
OWN = ("model.control_model.", "model.diffusion_model.project_modules.", "first_stage_model.denoise_encoder.")


def text_models():
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    models = {}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for part, kind in kinds.items():
            model = kind(CLIPTextConfig(**TEXT[part])).eval().requires_grad_(False)
            for name, tensor in model.named_parameters():
                if tensor.ndim == 1:
                    tensor.data = torch.randn_like(tensor) * 0.1 + (
                        "norm.weight" in name or "norm1.weight" in name
                    )
            models[part] = model
    return models


def supir_weights() -> dict[str, Tensor]:
    weights = {key: tensor for key, tensor in official_weights().items() if key.startswith(OWN)}
    return {**weights, "model.control_model.mask_LQ": torch.zeros(1, 4, 64, 64)}


def sdxl_weights() -> dict[str, Tensor]:
    """The single-file layout: the larger text encoder as OpenCLIP has it."""
    weights = {key: tensor for key, tensor in official_weights().items() if not key.startswith(OWN)}
    models = text_models()
    for name, tensor in models["text_encoder"].state_dict().items():
        weights[f"conditioner.embedders.0.transformer.text_model.{name}"] = tensor
    state = {k.removeprefix("text_model."): v for k, v in models["text_encoder_2"].state_dict().items()}
    prefix = "conditioner.embedders.1.model."
    weights[f"{prefix}token_embedding.weight"] = state["embeddings.token_embedding.weight"]
    weights[f"{prefix}positional_embedding"] = state["embeddings.position_embedding.weight"]
    weights[f"{prefix}text_projection"] = state["text_projection.weight"].T.contiguous()
    weights[f"{prefix}logit_scale"] = torch.tensor(4.6)
    for end in ("weight", "bias"):
        weights[f"{prefix}ln_final.{end}"] = state[f"final_layer_norm.{end}"]
        for i in range(TEXT["text_encoder_2"]["num_hidden_layers"]):
            ours, theirs = f"encoder.layers.{i}.", f"{prefix}transformer.resblocks.{i}."
            weights[f"{theirs}attn.in_proj_{end}"] = torch.cat(
                [state[f"{ours}self_attn.{part}_proj.{end}"] for part in "qkv"]
            )
            pairs = {
                "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
            }  # fmt: skip
            for mine, name in pairs.items():
                weights[f"{theirs}{name}.{end}"] = state[f"{ours}{mine}.{end}"]
    return weights


def write_supir(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    weights = {key: tensor.to(dtype).contiguous() for key, tensor in supir_weights().items()}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": {"state_dict": weights, "global_step": 3}}, path)
    return path


def write_sdxl_file(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    save_file({key: tensor.to(dtype).contiguous() for key, tensor in sdxl_weights().items()}, path)
    return path


def write_sdxl_folder(folder: Path) -> Path:
    """A diffusers folder that a stock StableDiffusionXLPipeline would read."""
    weights = official_weights()
    network, stage = empty_network(UNET), empty_first_stage(VAE)
    parts = {
        "unet": (network.unet, network_names(network.state_dict(), network.unet.config)),
        "vae": (stage.vae, first_stage_names(stage.state_dict(), stage.vae.config)),
    }
    for part, (model, names) in parts.items():
        (folder / part).mkdir(parents=True)
        state = {
            name: weights[names[f"{part}.{name}"]].reshape(tensor.shape).contiguous()
            for name, tensor in model.state_dict().items()
        }
        save_file(state, folder / part / "diffusion_pytorch_model.safetensors")
        (folder / part / "config.json").write_text(model.to_json_string())
    for part, model in text_models().items():
        model.save_pretrained(folder / part)
    sd15_tokenizer().save_pretrained(folder / "tokenizer")
    index = {"_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.42.1"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
