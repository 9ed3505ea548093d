"""The factors of a LoRA: the change of each linear and convolution layer cut down to a low rank.

The layout is kohya's (``lora_unet_….lora_down.weight``, ``….lora_up.weight``, ``….alpha``; LoCon's for
convolutions), which ComfyUI, A1111, Forge and diffusers load.
"""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_drift.stable_diffusion.delta_lora import lora_name
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline, empty_models

RANK = 32


def layer_names(opened: OpenedPipeline) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """What a LoRA can carry of a model and what it cannot.

    Returns:
        Part and weight of each linear and convolution layer; and of all other weights their kind, by
        ``<part>.<name>``: biases, norms or embeddings.
    """
    models = empty_models(opened.configs, opened.source)
    layers, kinds = [], {}
    for part in TRAINED:
        for path, module in models[part].named_modules():
            for name, _ in module.named_parameters(recurse=False):
                weight = f"{path}.{name}"
                if isinstance(module, nn.Linear | nn.Conv2d):
                    if name == "weight":
                        layers.append((part, weight))
                        continue
                    kinds[f"{part}.{weight}"] = "biases"
                else:
                    kinds[f"{part}.{weight}"] = "embeddings" if isinstance(module, nn.Embedding) else "norms"
    return layers, kinds


def largest_rank(opened: OpenedPipeline, rank: int) -> int:
    """The rank of the largest layer of a LoRA: the rank that was asked for, or that layer's full rank."""
    shapes = (opened.weights[part].shapes[name] for part, name in layer_names(opened)[0])
    return min(rank, max(min(_sides(shape)) for shape in shapes))


def lora_bytes(opened: OpenedPipeline, rank: int) -> int:
    """The most bytes that a LoRA of a model takes in float16."""
    sides = [_sides(opened.weights[part].shapes[name]) for part, name in layer_names(opened)[0]]
    return sum(2 * min(rank, *pair) * sum(pair) + 2 for pair in sides)


def lora_tensors(opened: OpenedPipeline, base: OpenedPipeline, rank: int) -> dict[str, Tensor]:
    """The factors of each changed layer as float16, under kohya's names.

    Args:
        opened: The fine-tune.
        base: Its base.
        rank: The most directions that a layer keeps; a smaller layer has its full rank.

    All layers have one alpha, the largest layer's rank. The factors of a layer of a lower rank r are divided
    by the scale alpha / r that programs multiply them with. The reason is that diffusers 0.42 loses the
    alphas of attention layers that differ from the most common one.
    """
    tensors = {}
    layers = layer_names(opened)[0]
    alpha = largest_rank(opened, rank)
    for part, name in tqdm(layers, desc=f"LoRA of rank {rank}", unit="layer", leave=False):
        tuned = opened.weights[part].read(name).float()
        change = tuned - base.weights[part].read(name).float().reshape(tuned.shape)
        if not change.any():
            continue
        up, down = factors(change, rank)
        root = (len(down) / alpha) ** 0.5
        layer = lora_name(part, name)
        tensors[f"{layer}.lora_up.weight"] = (up * root).half()
        tensors[f"{layer}.lora_down.weight"] = (down * root).half()
        tensors[f"{layer}.alpha"] = torch.tensor(float(alpha), dtype=torch.float16)
    return tensors


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a layer's flattened weight; the smaller is its full rank."""
    return shape[0], torch.Size(shape[1:]).numel()


def factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of a layer's change at a rank: its truncated singular value decomposition.

    By Eckart and Young (1936) the leading left singular vectors U give it as U Uᵀ C. They are the
    eigenvectors of C Cᵀ, computed in float64, which is many times faster than a decomposition of a wide C and
    draws no random numbers. Each factor takes the root of the singular values, so that both have the same
    norm and fit half precision.

    Args:
        change: A linear layer's [out, in] or a convolution's [out, in, k, k].
        rank: 1 or more; capped at the layer's full rank.

    Returns:
        ``up`` [out, r] and ``down`` [r, in] in float64, of a convolution [out, r, 1, 1] and [r, in, k, k];
        their product is the approximation.
    """
    flat = change.flatten(1).double()
    wide = len(flat) <= flat.shape[1]
    matrix = flat if wide else flat.T
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)  # ascending
    vectors = vectors[:, -rank:].flip(1)
    # A direction far below the largest is rounding, but still orthogonal: any positive root will do.
    roots = values[-rank:].flip(0).clamp(min=values[-1] * 1e-12).pow(0.25)
    left, right = vectors * roots, (vectors.T @ matrix) / roots[:, None]
    up, down = (left, right) if wide else (right.T, left.T)
    if change.ndim == 2:
        return up, down
    return up[:, :, None, None], down.reshape(-1, *change.shape[1:])
