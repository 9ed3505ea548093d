"""The judges: networks that are never trained and give pictures, and a CLIP prompts too, unit vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lightning_drift.common.errors import UserError
from lightning_drift.common.halving import Batch
from lightning_drift.common.out_of_memory import during
from lightning_drift.drift.measures.network_files import EXAMPLE, find_network, open_network
from lightning_drift.drift.measures.networks import CLIPS, EYES, Network, restore_positions
from lightning_drift.drift.measures.preprocessing import Preprocessing
from lightning_drift.weights.clip_tokenizer import read_tokenizer
from lightning_drift.weights.configs import describing, read_model_config
from lightning_drift.weights.fill import fill
from lightning_drift.weights.hashes import sha256
from lightning_drift.weights.hub import NotCachedError, from_cache
from lightning_drift.weights.siglip_tokenizer import SiglipTokenizer

TOGETHER = 16
"""Pictures that are embedded together."""


class FrozenEye:
    """A frozen network in float32 that turns pictures into unit vectors.

    It is loaded from its own files and is never the network that is trained: a judge that learned with the
    model would not see it drift.

    Args:
        network: Its kind.
        model: The network with its weights, in eval mode.
        preprocessing: Its preprocessing.
        name: What ``load`` loads again.
        weights_hash: Tells its embeddings from those of another network.
        option: The option that names it, for messages.
        tokenizer: What reads prompts, of a network that can.
    """

    kinds: Mapping[str, Network] = EYES
    example = "facebook/dinov2-base"

    def __init__(
        self,
        network: Network,
        model: Any,
        preprocessing: Preprocessing,
        name: str,
        weights_hash: str,
        option: str,
        tokenizer: Any = None,
    ) -> None:
        self.network = network
        self.model = model.requires_grad_(False)
        self.preprocessing = preprocessing
        self.name = name
        self.hash = weights_hash
        self.option = option
        self.tokenizer = tokenizer
        self._pictures = Batch(TOGETHER, things=f"pictures in {name}")
        self._prompts = Batch(64, things=f"prompts in {name}")

    @classmethod
    def load(cls, name: str, device: str | torch.device = "cpu", option: str = "clip") -> Self:
        """Load a network, from safetensors where there are any, else with ``weights_only``.

        Args:
            name: A local folder as transformers' ``save_pretrained`` writes network, preprocessing and (of a
                CLIP) tokenizer, or a hub id such as ``openai/clip-vit-large-patch14``; a local folder comes
                before a hub id. ``pocket`` is the small CLIP that comes with the package and knows the
                pocket's world only.
            device: Where it computes.
            option: The option that holds the name, for messages.

        Raises:
            UserError: Nothing of that name, the hub cannot be reached, or it is no whole network of the kind.
        """
        try:
            with during(f"loading {name}"):
                return cls._load(name, device, option)
        except UserError as error:
            raise error.of(option) from error
        except OSError as error:
            raise UserError(
                f"cannot read {error.filename or name}: {error.strerror or error}", option
            ) from error

    @classmethod
    def _load(cls, name: str, device: str | torch.device, option: str) -> Self:
        folder = find_network(name, cls.example)
        config = read_model_config(folder / "config.json")
        network = _kind(cls.kinds, config, name, cls.example)
        preprocessing = Preprocessing.read(folder / "preprocessor_config.json")
        words = cls._words(folder, network)
        weights = open_network(folder, name)
        with describing(str(folder / "config.json"), network.called), torch.no_grad():
            model = network.empty(config)
            with torch.device("meta"):
                cls._compute_once(network, model, preprocessing, words)
        fill(model, network.weights(model, weights), network.called)
        restore_positions(model)
        digest = hashlib.sha256(repr(preprocessing).encode())
        for file in sorted(weights.files):
            digest.update(sha256(file).encode())
        made = model.eval().to(device)
        return cls(network, made, preprocessing, name, digest.hexdigest(), option, words)

    @classmethod
    def _words(cls, folder: Path, network: Network) -> Any:
        """What reads prompts; nothing for a network of pictures alone."""

    @staticmethod
    def _compute_once(network: Network, model: Any, preprocessing: Preprocessing, words: Any) -> int:
        """Let a network on the meta device look once, which shows whether its files go together.

        Returns:
            The numbers of a vector.

        Raises:
            ValueError: They do not.
        """
        height, width = network.shape(model, preprocessing.shape)
        if preprocessing.shape != (height, width):
            made = "not cropped" if preprocessing.shape is None else f"of {preprocessing.shape} pixels"
            raise ValueError(f"its pictures are {made}, its network's of {height} times {width} pixels")
        return int(network.picture(model, torch.zeros((1, 3, height, width))).shape[1])

    def to(self, device: str | torch.device) -> Self:
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
                return [*self.network.picture(self.model, pixels.to(self.device)).cpu()]

        together = Batch(batch_size) if batch_size else self._pictures
        return self._unit(together.map(images, embedded))

    def _unit(self, rows: list[Tensor]) -> Tensor:
        if not rows:
            return torch.zeros((0, self._length()))
        vectors = torch.stack(rows)
        if not vectors.isfinite().all():
            raise UserError(f"{self.name} gives NaN or infinity: its weights are damaged", self.option)
        return functional.normalize(vectors, dim=-1)

    def _length(self) -> int:
        """The numbers of a vector."""
        height, width = self.network.shape(self.model, self.preprocessing.shape)
        with torch.no_grad():
            pixels = torch.zeros((1, 3, height, width), device=self.device)
            return int(self.network.picture(self.model, pixels).shape[1])


class FrozenClip(FrozenEye):
    """A frozen CLIP or SigLIP, which reads prompts too. Arguments as of `FrozenEye`."""

    kinds = CLIPS
    example = EXAMPLE

    @classmethod
    def _words(cls, folder: Path, network: Network) -> Any:
        return SiglipTokenizer(folder) if network is CLIPS["siglip"] else read_tokenizer(folder)

    @staticmethod
    def _compute_once(network: Network, model: Any, preprocessing: Preprocessing, words: Any) -> int:
        assert network.prompt is not None
        text = model.config.text_config
        if len(words) > text.vocab_size:
            raise ValueError(
                f"its tokenizer has {len(words)} tokens, its text encoder only {text.vocab_size}"
            )
        seen = FrozenEye._compute_once(network, model, preprocessing, words)
        ids = torch.zeros((1, text.max_position_embeddings), dtype=torch.long)
        read = network.prompt(model, ids).shape[1]
        if seen != read:
            raise ValueError(f"its vectors of pictures have {seen} numbers, those of texts {read}")
        return seen

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of prompts; a prompt beyond the context is cut as its makers do, its end token kept.

        Args:
            texts: Prompts.

        Returns:
            Shape (p, d), float32 on the CPU.
        """
        read = self.network.prompt
        assert read is not None

        def embedded(part: Sequence[str]) -> list[Tensor]:
            ids = self._ids(part)
            with _exact(self.device):
                return [*read(self.model, ids.to(self.device)).cpu()]

        return self._unit(self._prompts.map(texts, embedded))

    def _ids(self, texts: Sequence[str]) -> Tensor:
        context = self.model.config.text_config.max_position_embeddings
        if isinstance(self.tokenizer, SiglipTokenizer):
            return self.tokenizer.ids(texts, context)
        ids: Tensor = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=context, return_tensors="pt"
        ).input_ids
        return ids


def _kind(kinds: Mapping[str, Network], config: Mapping[str, Any], name: str, example: str) -> Network:
    """The kind of network that a config is of.

    Raises:
        UserError: It is of none of these.
    """
    kind = str(config.get("model_type", "no known model"))
    if kind == "siglip2" and "siglip" in kinds:
        raise UserError(
            f"{name} is a SigLIP 2 that takes pictures of any shape (NaFlex), which is not read; give one of "
            "a fixed size such as google/siglip2-base-patch16-224"
        )
    if kind not in kinds:
        names = " or ".join(dict.fromkeys(network.called for network in kinds.values()))
        raise UserError(f"{name} is {kind}, not a {names}; give one such as {example}")
    return kinds[kind]


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


def rehearse_clip(
    name: str,
    unknown: Mapping[str, Any],
    batch_size: int = TOGETHER,
    judge: type[FrozenEye] = FrozenClip,
) -> None:
    """What takes most memory of `FrozenEye.embed_images`, on the meta device; no vector comes of it.

    Args:
        name: As for `FrozenEye.load`.
        unknown: The config to take where the network is of the hub and not in the cache.
        batch_size: Pictures embedded together.
        judge: Whose kinds of networks it may be.

    Raises:
        UserError: It is no such network.
    """
    config, shape = unknown, None
    with from_cache(), suppress(NotCachedError):
        folder = find_network(name, judge.example)
        config = read_model_config(folder / "config.json")
        with suppress(UserError):  # said when it is loaded
            shape = Preprocessing.read(folder / "preprocessor_config.json").shape
    network = _kind(judge.kinds, {"model_type": next(iter(judge.kinds))} | dict(config), name, judge.example)
    with describing(f"the config of {name}", network.called), torch.no_grad():
        model = network.empty(config)
        height, width = network.shape(model, shape)
        network.picture(model, torch.empty((batch_size, 3, height, width), device="meta"))
