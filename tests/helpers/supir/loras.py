"""LoRAs of the tiny SDXL base, in the layouts that trainers write."""

import torch
from torch import Tensor

from lightning_drift.supir.network.layout import unet_name
from lightning_drift.weights.ldm_names import UNET_PREFIX

ENDS = {
    "kohya": (".lora_up.weight", ".lora_down.weight"),
    "kohya diffusers": (".lora_up.weight", ".lora_down.weight"),
    "peft": (".lora_B.weight", ".lora_A.weight"),
    "diffusers": (".lora.up.weight", ".lora.down.weight"),
}
KOHYA = {"text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}


def changed_layers(models: dict[str, torch.nn.Module]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Places and shapes of every matrix and kernel that a LoRA may change."""
    return {
        (part, name): tuple(tensor.shape)
        for part, model in models.items()
        for name, tensor in model.state_dict().items()
        if name.endswith(".weight") and tensor.ndim in (2, 4) and "embedding.weight" not in name
    }


def spelled(style: str, place: tuple[str, str], config: dict) -> str:
    """What a trainer calls the layer of a weight."""
    part, name = place
    layer = name.removesuffix(".weight")
    if part != "unet":
        inside = layer.removeprefix("text_model.")
        if style.startswith("kohya"):
            prefix = KOHYA[part] if inside != "text_projection" else KOHYA[part].removesuffix("text_model_")
            return prefix + inside.replace(".", "_")
        return f"{part}.{inside}" if inside == "text_projection" else f"{part}.text_model.{inside}"
    if style == "kohya":
        layer = unet_name(name, config).removeprefix(UNET_PREFIX).removesuffix(".weight")
    return "lora_unet_" + layer.replace(".", "_") if style.startswith("kohya") else f"unet.{layer}"


def factors(shape: tuple[int, ...], rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Up and down of a layer; of a convolution as LoCon has them."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn((shape[0], rank, *[1] * len(shape[2:])), generator=generator) * 0.1
    return up, torch.randn((rank, *shape[1:]), generator=generator) * 0.1


def write(style: str, shapes: dict, config: dict, rank: int = 3, alpha: float | None = 1.5):
    """A LoRA's tensors, and what each weight gains at weight 1."""
    tensors, gains = {}, {}
    for seed, (place, shape) in enumerate(shapes.items()):
        up, down = factors(shape, rank, seed)
        name, (up_end, down_end) = spelled(style, place, config), ENDS[style]
        tensors |= {name + up_end: up, name + down_end: down}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        product = up.flatten(1) @ down.flatten(1)
        gains[place] = (product * ((rank if alpha is None else alpha) / rank)).reshape(shape)
    return tensors, gains
