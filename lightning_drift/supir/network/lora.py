"""LoRAs on the SDXL base: added to the weights of its UNet and text encoders as these are read.

Which layer a tensor of a LoRA belongs to is looked up among the names of the base's own weights, in each of
the spellings that trainers use; a tensor that belongs to none is refused.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import real, shown
from lightning_drift.common.text import listed
from lightning_drift.supir.network import layout
from lightning_drift.supir.network.lora_families import refuse_other_adapters, refuse_stray
from lightning_drift.supir.network.sdxl import SdxlBase
from lightning_drift.weights import ldm_names
from lightning_drift.weights.files import Weights, open_weights
from lightning_drift.weights.low_rank import lora_change
from lightning_drift.weights.mapped import let_go

MOST_WEIGHT = 10.0
"""The largest weight of a LoRA, and with a minus the least."""

_ROLES = {
    **{".lora_up.weight": "up", ".lora_down.weight": "down", ".lora_mid.weight": "mid", ".alpha": "alpha"},
    **{".lora_B.weight": "up", ".lora_A.weight": "down"},
    **{".lora_B.default.weight": "up", ".lora_A.default.weight": "down"},
    **{".lora.up.weight": "up", ".lora.down.weight": "down"},
    **{".lora_linear_layer.up.weight": "up", ".lora_linear_layer.down.weight": "down"},
}
"""What a tensor is by the end of its name: kohya's trainers, PEFT, and two that diffusers once wrote."""

_OLD_ATTENTION = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora\.(up|down)\.weight$")
_METADATA = "lora_adapter_metadata"
"""The metadata entry in which diffusers keeps PEFT's configuration of each part."""

Place = tuple[str, str]
"""A part of the base, such as ``unet``, and the name of a weight of it."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as it is asked for.

    Attributes:
        path: Its file.
        weight: What its change is multiplied by.
    """

    path: Path
    weight: float = 1.0


@dataclass
class _Layer:
    """The tensors of one layer by what they are, and the scale of their product."""

    name: str
    keys: dict[str, str] = field(default_factory=dict)
    alpha: float | None = None
    by_root: bool = False


def split_weight(given: str, option: str) -> tuple[str, float]:
    """A file and its weight, as ``file.safetensors:0.8`` gives them; 1 where there is none.

    Raises:
        UserError: The weight is out of range.

    >>> split_weight("film.safetensors:0.8", "model.lora")
    ('film.safetensors', 0.8)
    """
    name, _, tail = given.rpartition(":")
    if not name or not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", tail):
        return given, 1.0
    return name, real(float(tail), option, -MOST_WEIGHT, MOST_WEIGHT)


def with_loras(base: SdxlBase, models: Mapping[str, nn.Module], loras: Iterable[LoraFile]) -> SdxlBase:
    """The base with LoRAs on it; nothing but their headers is read yet.

    Args:
        base: The base.
        models: The empty models of its parts.
        loras: The LoRAs; what several change alike is added up.

    Raises:
        UserError: A LoRA is damaged, of another kind, or made for another model.
    """
    shapes = {
        (part, name): tuple(tensor.shape)
        for part, model in models.items()
        for name, tensor in model.state_dict().items()
    }
    spellings = _spellings(shapes, base.configs["unet"])
    changes: dict[Place, list[Callable[[], Tensor]]] = {}
    for lora in loras:
        weights = open_weights(lora.path)
        for place, layer in _layers(weights, spellings).items():
            _check_layer(weights, layer, shapes[place])
            changes.setdefault(place, []).append(_change(weights, layer, lora.weight, shapes[place]))

    def read_part(part: str, names: Iterable[str]) -> tuple[Weights, dict[str, str]]:
        weights, stored = base.read_part(part, names)

        def read(name: str) -> Tensor:
            tensor = weights.stored(name)
            if (part, name) not in changes:
                return tensor
            total = tensor.float()
            if total.data_ptr() == tensor.data_ptr():  # mapped to its file, which nobody writes to
                total = total.clone()
            let_go(tensor)
            for change in changes[part, name]:
                total += change().reshape(total.shape)
            return total

        return replace(weights, stored=read), stored

    return replace(base, read_part=read_part)


def _spellings(places: Iterable[Place], config: Mapping[str, Any]) -> dict[str, Place]:
    """What trainers call the layers of the base's weights; `config` is the UNet's."""
    spellings: dict[str, Place] = {}
    for part, name in places:
        if not name.endswith(".weight"):
            continue
        layer = name.removesuffix(".weight")
        if part == "unet":
            official = layout.unet_name(name, config).removesuffix(".weight")
            official = official.removeprefix(ldm_names.UNET_PREFIX)
            found = [f"unet.{layer}", f"diffusion_model.{official}"]
            found += [f"lora_unet_{each.replace('.', '_')}" for each in (layer, official)]
        else:
            plain = layer.removeprefix("text_model.")
            kohya = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[part]
            inside = [plain] if plain == "text_projection" else [plain, f"text_model.{plain}"]
            found = [f"{part}.{each}" for each in inside]
            found += [kohya + each.replace(".", "_") for each in inside]
        spellings.update(dict.fromkeys(found, (part, name)))
    return spellings


def _layers(weights: Weights, spellings: Mapping[str, Place]) -> dict[Place, _Layer]:
    """The LoRA's layers by the weights that they change; every tensor is one's."""
    refuse_other_adapters(weights)
    layers: dict[Place, _Layer] = {}
    stray = []
    for key in weights.shapes:
        name, role = _named(key)
        if role is None or name not in spellings:
            stray.append(key)
            continue
        layer = layers.setdefault(spellings[name], _Layer(name))
        if role in layer.keys:
            raise UserError(f"{weights.origin} names one layer twice: {layer.keys[role]} and {key}")
        layer.keys[role] = key
    refuse_stray(weights, stray)
    for layer in layers.values():
        if lacking := {"up", "down"} - layer.keys.keys():
            raise UserError(
                f"{weights.origin} is not complete: {layer.name} lacks its {' and '.join(sorted(lacking))}"
            )
    _set_alphas(weights, layers)
    return layers


def _named(key: str) -> tuple[str, str | None]:
    """The layer that a tensor belongs to, in its trainer's words, and what it is; None where unknown."""
    if match := _OLD_ATTENTION.search(key):
        return f"{key[: match.start()]}.{match[1].replace('to_out', 'to_out.0')}", match[2]
    for end, role in _ROLES.items():
        if key.endswith(end):
            return key.removesuffix(end), role
    return key, None


def _set_alphas(weights: Weights, layers: Mapping[Place, _Layer]) -> None:
    """Give layers the alpha that PEFT's configuration in the metadata tells; a tensor comes before it."""
    if _METADATA not in weights.metadata:
        return
    try:
        told = json.loads(weights.metadata[_METADATA])
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise UserError(f"{weights.origin} is damaged: its {_METADATA} is no JSON object")
    for part in sorted({part for part, _ in layers}):
        alpha, patterns = told.get(f"{part}.lora_alpha"), told.get(f"{part}.alpha_pattern") or {}
        if told.get(f"{part}.use_dora"):
            raise UserError(f"{weights.origin} is a DoRA, which is not read; give a plain LoRA")
        if not isinstance(patterns, dict):
            raise UserError(f"{weights.origin} is damaged: the alpha_pattern of {part} is {shown(patterns)}")
        unused = set(patterns)
        for place, layer in layers.items():
            if place[0] != part:
                continue
            own = place[1].removesuffix(".weight")
            fits = [name for name in patterns if f".{own}".endswith(f".{name}")]
            unused.difference_update(fits)
            value = patterns[fits[0]] if fits else alpha
            if value is not None:
                layer.alpha = _alpha(value, f"{weights.origin}: a lora_alpha of {part}")
            layer.by_root = bool(told.get(f"{part}.use_rslora"))
        if unused:
            raise UserError(
                f"{weights.origin}: the alpha_pattern of {part} names other layers: {listed(sorted(unused))}"
            )


def _alpha(value: object, what: str) -> float:
    try:
        return real(value, "", -1e6, 1e6)
    except UserError as error:
        raise UserError(f"{what}, {error.message}") from error


def _check_layer(weights: Weights, layer: _Layer, shape: tuple[int, ...]) -> None:
    """Compare the shapes of a layer's tensors with its weight's."""
    up, down, mid = (weights.shapes.get(layer.keys.get(role, ""), ()) for role in ("up", "down", "mid"))
    inside = (*shape[1:2], *([1] * len(down[2:]) if mid else shape[2:]))
    fits = (
        len(shape) in (2, 4)
        and len(up) >= 2
        and len(down) >= 2
        and up[:2] == (shape[0], down[0])
        and math.prod(up) == up[0] * up[1] > 0
        and down[1] == shape[1]
        and math.prod(down[1:]) == math.prod(inside)
        and (not mid or mid == (down[0], down[0], *shape[2:]))
        and math.prod(weights.shapes.get(layer.keys.get("alpha", ""), ())) == 1
    )
    if fits:
        return
    other = {768: "a Stable Diffusion 1.x", 1024: "a Stable Diffusion 2.x"}
    family = other.get(down[1] if len(down) > 1 else 0) if "attn2" in layer.name else None
    made_for = f"; it is made for {family} model, and this base is another" if family else ""
    raise UserError(
        f"{weights.origin} does not fit the base: {layer.name} has up {list(up)} and down {list(down)}"
        f"{f', mid {list(mid)}' if mid else ''} for a weight {list(shape)}{made_for}"
    )


def _change(weights: Weights, layer: _Layer, weight: float, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    """A function that computes what is added to one weight."""

    def compute() -> Tensor:
        up, down = (weights.read(layer.keys[role]) for role in ("up", "down"))
        mid = weights.read(layer.keys["mid"]) if "mid" in layer.keys else None
        rank, alpha = len(down), layer.alpha
        if "alpha" in layer.keys:
            alpha = weights.read(layer.keys["alpha"]).item()
        elif alpha is None:
            alpha = float(rank)
        elif layer.by_root:
            alpha *= math.sqrt(rank)  # alpha / sqrt(r) instead of alpha / r (Kalajdzievski, arXiv:2312.03732)
        return lora_change(up, down, weight * alpha, shape, mid)

    return compute
