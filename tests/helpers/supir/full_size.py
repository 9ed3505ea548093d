"""Full-size random checkpoints in the official layout, written piece by piece to need little memory."""

import gzip
import json
import math
import struct
from pathlib import Path

import torch

from helpers.supir.golden import FOLDER
from lightning_drift.supir.network.layout import BIGG_PREFIX, CLIP_L_PREFIX
from lightning_drift.supir.network.sdxl import SDXL_CONFIGS


def full_size_shapes() -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Keys and shapes of SUPIR's own file and of an SDXL single file."""
    manifest = json.loads(gzip.decompress((FOLDER / "manifest_full.json.gz").read_bytes()))
    own = set(manifest["supir_keys"])
    supir = {key: shape for key, shape in manifest["keys"].items() if key in own}
    sdxl = {key: shape for key, shape in manifest["keys"].items() if key not in own}
    return supir | {"model.control_model.mask_LQ": [1, 4, 64, 64]}, sdxl | _text_shapes()


def write_full_size(
    folder: Path, sparse: bool = False, dtype: torch.dtype = torch.float16
) -> tuple[Path, Path]:
    """Write SUPIR's own weights and an SDXL single file in a 16-bit dtype, about 2.7 and 6.9 GB.

    Sparse files hold zeros and take no space on the disk.
    """
    supir, sdxl = full_size_shapes()
    return (
        _write(folder / "SUPIR-v0Q.safetensors", supir, dtype, sparse),
        _write(folder / "sdxl.safetensors", sdxl, dtype, sparse),
    )


def _text_shapes() -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    width, inner = 768, 3072
    shapes[f"{CLIP_L_PREFIX}embeddings.token_embedding.weight"] = [49408, width]
    shapes[f"{CLIP_L_PREFIX}embeddings.position_embedding.weight"] = [77, width]
    for end, tail in (("weight", 1), ("bias", 0)):
        shapes[f"{CLIP_L_PREFIX}final_layer_norm.{end}"] = [width]
        for i in range(SDXL_CONFIGS["text_encoder"]["num_hidden_layers"]):
            layer = f"{CLIP_L_PREFIX}encoder.layers.{i}."
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes[f"{layer}self_attn.{name}.{end}"] = [width] + [width] * tail
            for name in ("layer_norm1", "layer_norm2"):
                shapes[f"{layer}{name}.{end}"] = [width]
            shapes[f"{layer}mlp.fc1.{end}"] = [inner] + [width] * tail
            shapes[f"{layer}mlp.fc2.{end}"] = [width] + [inner] * tail
    width, inner = 1280, 5120
    shapes[f"{BIGG_PREFIX}token_embedding.weight"] = [49408, width]
    shapes[f"{BIGG_PREFIX}positional_embedding"] = [77, width]
    shapes[f"{BIGG_PREFIX}text_projection"] = [width, width]
    for end, tail in (("weight", 1), ("bias", 0)):
        shapes[f"{BIGG_PREFIX}ln_final.{end}"] = [width]
        for i in range(SDXL_CONFIGS["text_encoder_2"]["num_hidden_layers"]):
            layer = f"{BIGG_PREFIX}transformer.resblocks.{i}."
            shapes[f"{layer}attn.in_proj_{end}"] = [3 * width] + [width] * tail
            shapes[f"{layer}attn.out_proj.{end}"] = [width] + [width] * tail
            for name in ("ln_1", "ln_2"):
                shapes[f"{layer}{name}.{end}"] = [width]
            shapes[f"{layer}mlp.c_fc.{end}"] = [inner] + [width] * tail
            shapes[f"{layer}mlp.c_proj.{end}"] = [width] + [inner] * tail
    return shapes


def _write(path: Path, shapes: dict[str, list[int]], dtype: torch.dtype, sparse: bool) -> Path:
    """A safetensors file of random weights, scaled by fan-in; norms near 1. The numbers repeat."""
    name = {torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": name, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = torch.randn(2**22 + 7, generator=torch.Generator().manual_seed(0))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if sparse:
            file.truncate(8 + len(text) + end)
            return path
        for key, shape in shapes.items():
            count, is_norm = math.prod(shape), len(shape) == 1 and key.endswith("weight")
            spread = 0.02 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
            values = (block * spread + is_norm).to(dtype)
            for begin in range(0, count, len(block)):
                part = values[: min(len(block), count - begin)]
                file.write(part.view(torch.int16).numpy().tobytes())
    return path
