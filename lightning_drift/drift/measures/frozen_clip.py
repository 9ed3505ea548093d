"""The judge: a CLIP that is never trained, with its own preprocessing of pictures in Pillow and NumPy."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from lightning_drift.assets import POCKET_CLIP
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.common.halving import Batch
from lightning_drift.common.out_of_memory import during
from lightning_drift.common.text import reason
from lightning_drift.weights.clip_tokenizer import read_tokenizer
from lightning_drift.weights.configs import MAX_SAMPLE, describing, read_config, read_model_config
from lightning_drift.weights.files import Weights, open_weights
from lightning_drift.weights.fill import fill
from lightning_drift.weights.hashes import sha256
from lightning_drift.weights.hub import NotCachedError, fetch_folder, from_cache
from lightning_drift.weights.variants import say_variant, weight_file, weight_files

_EXAMPLE = "openai/clip-vit-large-patch14"
_STRAY = {"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"}

TOGETHER = 16
"""Pictures that are embedded together."""


@dataclass(frozen=True)
class Preprocessing:
    """What a CLIP does with a picture before it looks, as in ``preprocessor_config.json``.

    Attributes:
        edge: Length in pixels to which the shorter edge is resized; None to leave pictures as they are.
        crop: Height and width in pixels of the centre crop; None for no crop.
        mean: Mean of each channel, for values in 0..1.
        std: Standard deviation of each channel.
        resample: Pillow's number of the resampling filter; 3 is bicubic.
        scale: What 8-bit values are multiplied with.
    """

    edge: int | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = 3
    scale: float = 1 / 255

    @classmethod
    def read(cls, file: Path) -> Preprocessing:
        """Read a ``preprocessor_config.json`` of this or of older versions of transformers.

        Raises:
            UserError: No such file, or it asks for anything but to resize, crop the centre and normalise.
        """
        config = read_config(file)
        try:
            preprocessing = cls._of(config)
            preprocessing(Image.new("RGB", (2, 3)))
        except Exception as error:  # any value may be of the wrong type or size
            raise UserError(
                f"{file} asks for something else than a shortest edge, a centre crop and a normalisation of "
                f"three channels ({reason(error)})"
            ) from error
        return preprocessing

    @classmethod
    def _of(cls, config: Mapping[str, Any]) -> Preprocessing:
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        edge = size["shortest_edge"] if isinstance(size, dict) else size
        shape = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
        if not all(1 <= length <= MAX_SAMPLE for length in (edge, *shape)):
            raise ValueError(f"sizes are 1 to {MAX_SAMPLE} pixels")
        normalise = config.get("do_normalize", True)
        mean = config.get("image_mean", (0.48145466, 0.4578275, 0.40821073)) if normalise else (0.0,)
        std = config.get("image_std", (0.26862954, 0.26130258, 0.27577711)) if normalise else (1.0,)
        scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
        if not all(math.isfinite(number) for number in (*mean, scale)) or not all(
            0 < part < 1e6 for part in std
        ):
            raise ValueError("mean, deviation and factor are finite numbers")
        return cls(
            edge=int(edge) if config.get("do_resize", True) else None,
            crop=(int(shape[0]), int(shape[1])) if config.get("do_center_crop", True) else None,
            mean=tuple(mean),
            std=tuple(std),
            resample=int(config.get("resample", 3)),
            scale=scale,
        )

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixel values (3, h, w) of a picture, equal to those of transformers' ``CLIPImageProcessorPil``."""
        image = image.convert("RGB")
        if self.edge is not None:
            width, height = image.size
            long = int(self.edge * max(width, height) / min(width, height))
            target = (self.edge, long) if width <= height else (long, self.edge)
            image = image.resize(target, Image.Resampling(self.resample))
        if self.crop is not None:
            # Pillow fills with black what lies outside of a picture smaller than the crop.
            left, top = (image.width - self.crop[1]) // 2, (image.height - self.crop[0]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        pixels = (np.asarray(image, dtype=np.float64) * self.scale).astype(np.float32)
        values = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.asarray(values.transpose(2, 0, 1))


class FrozenClip:
    """A frozen CLIP in float32 that turns pictures and prompts into unit vectors.

    It is loaded from its own files and is never the text encoder that is trained: a judge that learned with
    the model would not see it drift.

    Args:
        model: A CLIPModel with its weights, in eval mode.
        tokenizer: Its tokenizer.
        preprocessing: Its preprocessing.
        name: What ``load`` loads again.
        weights_hash: Tells its embeddings from those of another CLIP.
        option: The option that names it, for messages.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        name: str,
        weights_hash: str,
        option: str = "clip",
    ) -> None:
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.name = name
        self.hash = weights_hash
        self.option = option
        self._together = {
            "pictures": Batch(TOGETHER, things=f"pictures in {name}"),
            "prompts": Batch(64, things=f"prompts in {name}"),
        }

    @classmethod
    def load(cls, name: str, device: str | torch.device = "cpu", option: str = "clip") -> FrozenClip:
        """Load a CLIP, from safetensors where there are any, else with ``weights_only``.

        Args:
            name: ``pocket``, the small CLIP that comes with the package and knows the pocket's world only; a
                local folder as ``CLIPModel.save_pretrained`` and ``CLIPProcessor`` write it; or a hub id such
                as ``openai/clip-vit-large-patch14``. A local folder comes before a hub id.
            device: Where it computes.
            option: The option that holds the name, for messages.

        Raises:
            UserError: Nothing of that name, the hub cannot be reached, or it is no whole CLIP.
        """
        try:
            with during(f"loading the CLIP {name}"):
                return cls._load(name, device, option)
        except UserError as error:
            raise error.of(option) from error
        except OSError as error:
            raise UserError(
                f"cannot read {error.filename or name}: {error.strerror or error}", option
            ) from error

    @classmethod
    def _load(cls, name: str, device: str | torch.device, option: str) -> FrozenClip:
        folder = POCKET_CLIP if name == "pocket" else _find(name)
        config = read_model_config(folder / "config.json")
        if config.get("model_type") != "clip":
            kind = config.get("model_type", "no known model")
            raise UserError(f"{name} is {kind}, not a CLIP; give one such as {_EXAMPLE}")
        preprocessing = Preprocessing.read(folder / "preprocessor_config.json")
        tokenizer = read_tokenizer(folder)
        weights = _open(folder, name)
        with describing(str(folder / "config.json"), "CLIP"), torch.no_grad():
            model = _empty(config)
            with torch.device("meta"):
                _compute_once(model, preprocessing, tokenizer)
        fill(model, weights, "CLIP")
        for tower in (model.text_model, model.vision_model):  # the buffers that no file holds
            count = tower.embeddings.position_embedding.num_embeddings
            tower.embeddings.position_ids = torch.arange(count).expand((1, -1))
        digest = hashlib.sha256(repr(preprocessing).encode())
        for file in sorted(weights.files):
            digest.update(sha256(file).encode())
        return cls(model.eval().to(device), tokenizer, preprocessing, name, digest.hexdigest(), option)

    def to(self, device: str | torch.device) -> FrozenClip:
        """Move the weights, and return itself."""
        self.model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self.model.device)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image], batch_size: int | None = None) -> Tensor:
        """Unit vectors of pictures.

        Args:
            images: Pictures of any size.
            batch_size: Pictures embedded together, which changes the result by rounding only; None for 16, or
                what the memory holds of them.

        Returns:
            Shape (n, d), float32 on the CPU.

        Raises:
            UserError: They are not finite: the weights are damaged.
        """

        def embedded(part: Sequence[Image.Image]) -> list[Tensor]:
            with _exact(self.device):
                pixels = torch.from_numpy(np.stack([self.preprocessing(image) for image in part]))
                pooled = self.model.vision_model(pixel_values=pixels.to(self.device)).pooler_output
                return [*self.model.visual_projection(pooled).cpu()]

        together = Batch(batch_size) if batch_size else self._together["pictures"]
        return self._unit(together.map(images, embedded))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of prompts; a prompt beyond the context is cut as CLIP does, its end token kept.

        Args:
            texts: Prompts.

        Returns:
            Shape (p, d), float32 on the CPU.
        """
        context = self.model.config.text_config.max_position_embeddings

        def embedded(part: Sequence[str]) -> list[Tensor]:
            ids = self.tokenizer(
                list(part), padding="max_length", truncation=True, max_length=context, return_tensors="pt"
            ).input_ids
            with _exact(self.device):
                pooled = self.model.text_model(input_ids=ids.to(self.device)).pooler_output
                return [*self.model.text_projection(pooled).cpu()]

        return self._unit(self._together["prompts"].map(texts, embedded))

    def _unit(self, rows: list[Tensor]) -> Tensor:
        if not rows:
            return torch.zeros((0, self.model.config.projection_dim))
        vectors = torch.stack(rows)
        if not vectors.isfinite().all():
            raise UserError(f"{self.name} gives NaN or infinity: its weights are damaged", self.option)
        return functional.normalize(vectors, dim=-1)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Full float32 for a while: no autocast of a surrounding fit, no TF32 in convolutions or products."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def is_here(name: str) -> bool:
    """Whether a CLIP can be read, or refused, without reaching the hub."""
    try:
        with from_cache():
            return name == "pocket" or _find(name).is_dir()
    except NotCachedError:
        return False
    except UserError:
        return True


def refuse_missing(name: str, option: str) -> None:
    """Refuse the name of a local CLIP that is not there.

    Raises:
        UserError: It is neither a folder nor ``pocket``.
    """
    try:
        if name != "pocket":
            _find(name)
    except UserError as error:
        raise UserError(error.message, option) from error


def rehearse_clip(name: str, unknown: Mapping[str, Any], batch_size: int = TOGETHER) -> None:
    """What takes most memory of `FrozenClip.embed_images`, on the meta device; no vector comes of it.

    Args:
        name: As for `FrozenClip.load`.
        unknown: The config to take where the CLIP is of the hub and not in the cache.
        batch_size: Pictures embedded together.

    Raises:
        UserError: It is no CLIP.
    """
    config = unknown
    with from_cache(), suppress(NotCachedError):
        config = read_model_config((POCKET_CLIP if name == "pocket" else _find(name)) / "config.json")
    with describing(f"the config of {name}", "CLIP"), torch.no_grad():
        model = _empty(config)
        side = model.config.vision_config.image_size
        pooled = model.vision_model(torch.empty((batch_size, 3, side, side), device="meta")).pooler_output
        model.visual_projection(pooled)


def _empty(config: Mapping[str, Any]) -> Any:
    """A CLIP on the meta device."""
    with torch.device("meta"):
        return CLIPModel._from_config(  # type: ignore[no-untyped-call]
            CLIPConfig(**config), attn_implementation="sdpa", dtype=torch.float32
        ).eval()


def _compute_once(model: Any, preprocessing: Preprocessing, tokenizer: Any) -> None:
    """Let a CLIP on the meta device compute once, which shows whether its files go together.

    Raises:
        ValueError: They do not.
    """
    text, side = model.config.text_config, model.config.vision_config.image_size
    if len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"its tokenizer has {len(tokenizer)} tokens, its text encoder only {text.vocab_size}"
        )
    if preprocessing.crop != (side, side):
        crop = "not cropped" if preprocessing.crop is None else f"of {preprocessing.crop} pixels"
        raise ValueError(f"its pictures are {crop}, its network's of {side} times {side} pixels")
    ids = torch.zeros((1, text.max_position_embeddings), dtype=torch.long)
    seen = model.visual_projection(model.vision_model(torch.zeros((1, 3, side, side))).pooler_output)
    read = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    if seen.shape != read.shape:
        raise ValueError(
            f"its vectors of pictures have {seen.shape[1]} numbers, those of texts {read.shape[1]}"
        )


def _find(name: str) -> Path:
    """The folder of a CLIP, fetched from the hub where it is not local."""
    folder = user_path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UserError(f"there is no folder {name}; give a local folder or a hub id such as {_EXAMPLE}")
    return fetch_folder(name, clip_files, instead="a local folder")


def clip_files(files: Sequence[str]) -> list[str]:
    """Of a hub CLIP's files those to fetch: the weights once, from safetensors where there are any."""

    def matching(*patterns: str) -> list[str]:
        return [file for file in files if any(fnmatch(file, pattern) for pattern in patterns)]

    small = [file for file in matching("*.json", "merges.txt") if not file.endswith(".index.json")]
    return small + weight_files(files)


def _open(folder: Path, name: str) -> Weights:
    file = weight_file([file.name for file in folder.iterdir()])
    if file is None:
        raise UserError(f"{name} holds no weights: expected model.safetensors in {folder}")
    say_variant(file, name)
    weights = open_weights(folder / file)
    return weights.renamed({key: key for key in weights.shapes if key not in _STRAY})
