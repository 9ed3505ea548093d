"""DriftBase: statistics of the base model, against which every milestone is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import check_file
from lightning_drift.common.numbers import shown
from lightning_drift.drift.measures.features import Features

FORMAT = 1

_OPTIONAL = ("texts", "latents", "predictions")

JUDGES = ("clip_drift.clip", "clip_drift.image_model")
"""Settings that say what measured. Statistics by another one serve as far as the measures without it go."""

ROUNDING = ("device", "trainer.precision", "seed_grid.batch_size")
"""Settings that change the base's pictures by rounding only: a resume may differ in them."""


@dataclass(frozen=True)
class DriftBase:
    """What is known of the base model. It is kept in checkpoints, and in a cache folder between runs.

    Attributes:
        settings: Everything that its pictures and embeddings follow from, in plain values by option.
        pictures: Features of its pictures, in the order of the probes' keys.
        texts: The frozen CLIP's embeddings of the prompts, shape (p, d); None without CLIP.
        latents: Latents that the language probe is shown, shape (n, c, h, w); None without the probe.
        energies: What the language probe measured of the base, and texture and update norms of its pictures,
            by name.
        predictions: The base's predictions in the language probe, shape (trials, p, c, h, w); None without
            the probe, and in what an earlier version took.
    """

    settings: dict[str, Any]
    pictures: Features
    texts: Tensor | None
    latents: Tensor | None = None
    energies: dict[str, float] = field(default_factory=dict)
    predictions: Tensor | None = None

    @property
    def clip_hash(self) -> str | None:
        """The hash of the CLIP that took its embeddings; None if it was taken without one."""
        name: str | None = self.settings.get("clip_drift.clip")
        return name

    @property
    def image_hash(self) -> str | None:
        """The hash of the network of pictures that took its other embeddings; None if none did."""
        name: str | None = self.settings.get("clip_drift.image_model")
        return name

    def without_clip(self) -> DriftBase:
        """The same without CLIP's embeddings."""
        return replace(self, pictures=replace(self.pictures, clip=None), texts=None)

    def without_image(self) -> DriftBase:
        """The same without the embeddings of a network of pictures."""
        return replace(self, pictures=replace(self.pictures, image=None))

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, as a checkpoint holds them; `from_state` takes them back."""
        tensors = {f"pictures.{name}": tensor for name, tensor in self.pictures.tensors().items()}
        for name in _OPTIONAL:
            if (tensor := getattr(self, name)) is not None:
                tensors[name] = tensor
        return {"settings": self.settings, "energies": self.energies, "tensors": tensors}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> DriftBase:
        """Undo `state`. Tensors are copied, because a checkpoint's lie in a mapped file.

        Raises:
            UserError: Another version wrote it, or it is damaged.
        """
        settings = settings_of(state, FORMAT, "the base model's statistics")
        tensors = tensors_of(state, "the base model's statistics")
        prefix = "pictures."
        marked = [name for name in tensors if name.startswith(prefix)]
        pictures = Features.from_tensors({name.removeprefix(prefix): tensors[name] for name in marked})
        energies, (texts, latents, predictions) = state.get("energies"), map(tensors.get, _OPTIONAL)
        fits = (
            isinstance(energies, Mapping)
            and all(isinstance(value, float) and isfinite(value) for value in energies.values())
            and set(tensors) <= {*marked, *_OPTIONAL}
            and (latents is None or latents.ndim == 4)
            and (predictions is None or predictions.ndim == 5)
            and (texts is None or (pictures.clip is not None and texts.ndim == 2))
            and (texts is None or pictures.clip is None or texts.shape[1] == pictures.clip.shape[1])
        )
        if not fits:
            raise UserError("the base model's statistics are damaged")
        return cls(settings, pictures, texts, latents, dict(energies or {}), predictions)

    # -- on disk ----------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Keep it in a cache folder, under a name that follows from its settings.

        Raises:
            OSError: It cannot be written.
        """
        state = self.state()
        plain = {name: json.dumps(state[name], sort_keys=True) for name in ("settings", "energies")}
        tensors = {name: tensor.contiguous() for name, tensor in state["tensors"].items()}
        with atomic_write(_path(folder, self.settings)) as file:
            file.write(to_bytes(tensors, metadata=plain))

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> DriftBase | None:
        """Take it from a cache folder; None if it is not there, or, with a notice, if it is damaged."""
        path = _path(folder, settings)
        try:
            path.lstat()
            check_file(path, "cache file")
            with safe_open(path, framework="pt") as file:
                plain = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            base = cls.from_state(plain | {"tensors": tensors})
            groups = settings.get("seed_grid.groups")
            if base.settings != json.loads(json.dumps(settings)):
                raise UserError("it was taken with other settings than its name says")
            if isinstance(groups, list) and len(base.pictures) != len(groups):
                raise UserError("it holds another number of pictures")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            notice(f"the cache file {path} cannot be used: {reason}")
            return None
        return base


def settings_of(state: Any, version: int, what: str) -> dict[str, Any]:
    """The settings in what a checkpoint or a cache holds.

    Args:
        state: What it holds.
        version: The format that it must have.
        what: What it is called in the error message.

    Raises:
        UserError: They are not there, or of another version.
    """
    settings = state.get("settings") if isinstance(state, Mapping) else None
    if not isinstance(settings, Mapping) or settings.get("format") != version:
        raise UserError(f"{what} were kept by another version of lightning-drift")
    return dict(settings)


def tensors_of(state: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """Copies of the tensors in what a checkpoint or a cache holds.

    Raises:
        UserError: They are not there, or hold NaN or infinity.
    """
    tensors = state.get("tensors")
    if not isinstance(tensors, Mapping) or not all(isinstance(each, Tensor) for each in tensors.values()):
        raise UserError(f"{what} are damaged: they hold no tensors")
    if odd := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{what} are damaged: {shown(odd[0])} holds NaN or infinity")
    return {str(name): tensor.clone() for name, tensor in tensors.items()}


def differences(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Names of the requested settings in which the recorded ones differ, except those of ``ROUNDING``.

    Args:
        recorded: What statistics were taken with.
        requested: What they are asked for with; settings that it leaves out may be anything.
    """
    names = [name for name in requested if name not in ROUNDING]
    return [name for name in names if recorded.get(name) != requested[name]]


def _path(folder: Path, settings: Mapping[str, Any]) -> Path:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    return folder / f"{digest.hexdigest()}.safetensors"
