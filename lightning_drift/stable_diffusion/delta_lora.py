"""Files that hold only what a fine-tune changed: which base they belong to, and the base with the change.

Such a file is safetensors with an entry ``lightning_drift.change`` in its metadata: its form (``delta`` or
``lora``), and its base's name, hash, and a few of its weights, by which a copy in another precision is
recognised.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.rng import generator
from lightning_drift.common.text import listed
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline
from lightning_drift.stable_diffusion.recorded import checked_recipe, checked_step
from lightning_drift.weights.files import Weights
from lightning_drift.weights.hashes import files_hash
from lightning_drift.weights.low_rank import lora_change
from lightning_drift.weights.metadata import METADATA, metadata_entry

CHANGE = "change"
TOLERANCE = 1e-3
"""Largest relative difference of two copies of one base: float16 makes 2e-4, a short fine-tune more."""
_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}


def change_metadata(base: OpenedPipeline, name: str, form: str) -> dict[str, str]:
    """The metadata entry of a file of changes.

    Args:
        base: The opened base.
        name: Its name for others: a hub id, ``pocket``, or the name of its file or folder.
        form: ``delta`` or ``lora``.
    """
    apply = {
        "delta": "W = W0 + delta, in float32; unet.* and text_encoder.* are named as in diffusers and "
        "transformers 5 (without text_model.); a weight that is not here is W0",
        "lora": "W = W0 + alpha / rank * lora_up @ lora_down, in float32 (kohya layout, all flattened)",
    }
    entry = {
        "form": form,
        "base": name,
        "base_revision": base.revision,
        "base_hash": files_hash(base.files),
        "base_sample": _sample(base),
        "apply": apply[form],
    }
    return {METADATA + CHANGE: json.dumps(entry)}


def is_change(weights: Weights) -> bool:
    """Whether a safetensors file is a delta or a LoRA of our own export."""
    return METADATA + CHANGE in weights.metadata


def recorded_base(weights: Weights, path: Path) -> tuple[str, str | None]:
    """The name of the base that a file of changes belongs to, and its hub commit.

    Raises:
        UserError: The entry is damaged.
    """
    entry = _entry(weights, path)
    return entry["base"], entry.get("base_revision")


def over_base(base: OpenedPipeline, change: Weights, path: Path) -> OpenedPipeline:
    """The base with the change on it; each tensor is computed in float32 when it is read.

    Raises:
        UserError: The base is another one than the file was made from, or the file is damaged.
    """
    entry = _entry(change, path)
    sample = entry["base_sample"]
    own = _sample(base) if files_hash(base.files) != entry["base_hash"] else sample
    if len(own) != len(sample) or not _distance(own, sample) <= TOLERANCE:
        raise UserError(
            f"{path} was made from {entry['base']} (sha256 {entry['base_hash'][:10]}), and {base.source} is "
            "another model; name the right one with base"
        )
    return replace(
        base,
        source=str(path.resolve()),
        revision=None,
        weights={**base.weights, **_sums(base, change, entry["form"], path)},
        files={path.name: path},
        recipe=checked_recipe(metadata_entry(change.metadata, "recipe", str(path)), str(path)),
        step=checked_step(metadata_entry(change.metadata, "step", str(path)), str(path)),
        base=base,
    )


def lora_name(part: str, weight: str) -> str:
    """The kohya name of a layer: ``unet``, ``conv_in.weight`` -> ``lora_unet_conv_in``."""
    return _PREFIXES[part] + weight.removesuffix(".weight").replace(".", "_")


def _entry(weights: Weights, path: Path) -> dict[str, Any]:
    entry = metadata_entry(weights.metadata, CHANGE, str(path))
    kinds = {"form": str, "base": str, "base_hash": str, "base_sample": list}
    if (
        not isinstance(entry, dict)
        or any(not isinstance(entry.get(key), kind) for key, kind in kinds.items())
        or not isinstance(entry.get("base_revision"), str | None)
        or entry["form"] not in ("delta", "lora")
        or not entry["base"]
        or not all(type(number) in (int, float) and abs(number) < 1e30 for number in entry["base_sample"])
    ):
        raise UserError(f"the {METADATA}{CHANGE} entry in the metadata of {path} is damaged")
    return entry


def _sums(base: OpenedPipeline, change: Weights, form: str, path: Path) -> Mapping[str, Weights]:
    """The weights of the trained parts, base plus change; refuses tensors that belong to no weight."""
    known: set[str] = set()
    weights: dict[str, Weights] = {}
    for part in TRAINED:
        shapes = base.weights[part].shapes
        adds: dict[str, Callable[[], Tensor]] = {}
        for name, shape in shapes.items():
            if form == "delta":
                keys: tuple[str, ...] = (f"{part}.{name}",)
            else:
                layer = lora_name(part, name)
                keys = (f"{layer}.lora_up.weight", f"{layer}.lora_down.weight", f"{layer}.alpha")
                if not name.endswith(".weight"):
                    continue
            if keys[0] in change.shapes:
                adds[name] = _addition(change, keys, shape, path)
                known.update(keys)
        weights[part] = _sum(base.weights[part], adds, str(path))
    if stray := sorted(change.shapes.keys() ^ known):
        raise UserError(f"{path} does not fit {base.source}: stray or missing {listed(stray)}")
    return weights


def _addition(
    change: Weights, keys: tuple[str, ...], shape: tuple[int, ...], path: Path
) -> Callable[[], Tensor]:
    """A function that reads what is added to one weight; a misfit is refused before anything is read."""
    if len(keys) == 1:
        sizes = [torch.Size(change.shapes[keys[0]]).numel()]
    else:
        up, down = (change.shapes.get(key, (0,)) for key in keys[:2])
        alpha = change.shapes.get(keys[2], ())  # where it is lacking, that is said of all layers together
        fits = min(len(up), len(down)) > 1 and up[1] == down[0] > 0 and torch.Size(alpha).numel() == 1
        sizes = [up[0] * (torch.Size(down).numel() // down[0]) if fits else 0]
    if sizes != [torch.Size(shape).numel()]:
        raise UserError(f"{path}: {keys[0]} does not fit the base, which has {list(shape)} there")
    if len(keys) == 1:
        return lambda: change.read(keys[0]).float().reshape(shape)
    return lambda: lora_change(change.read(keys[0]), change.read(keys[1]), change.read(keys[2]).item(), shape)


def _sum(base: Weights, adds: Mapping[str, Callable[[], Tensor]], origin: str) -> Weights:
    def read(name: str) -> Tensor:
        tensor = base.read(name).float()
        return tensor + adds[name]() if name in adds else tensor

    return replace(base, origin=origin, stored=read)


def _sample(opened: OpenedPipeline) -> list[float]:
    """One element of each matrix and kernel of UNet and text encoder, by which a model is recognised.

    Which one is drawn from the weight's name: the middle one would be a kernel's first tap in every layer.
    """
    sample = []
    for part in TRAINED:
        weights = opened.weights[part]
        for name in sorted(name for name, shape in weights.shapes.items() if len(shape) > 1 and all(shape)):
            flat = weights.read(name).flatten()
            place = torch.randint(len(flat), (), generator=generator(0, "base sample", part, name))
            sample.append(float(f"{flat[place].item():.7g}"))
    return sample


def _distance(sample: list[float], expected: list[float]) -> float:
    a, b = torch.tensor(sample), torch.tensor(expected)
    return float((a - b).norm() / b.norm())
