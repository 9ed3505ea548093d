"""Pictures of base models on disk, by everything that decides their bits, so that they are rendered once."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.modules import weights_hash
from lightning_drift.images.decode import UndecodableError, decode, read_file
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import write_png
from lightning_drift.images.png_chunks import text_of
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.sampling import NOISE_SCHEDULE, Sampling, native_size

FORMAT = 1
_TEXT = "parameters"
_SAMPLED = 64  # numbers of each tensor


class PictureCache:
    """Pictures of one model, kept as PNG files under names that follow from what decides them.

    That is the model by its files' hash and a sample of its weights as they are now, the prompt, the seed and
    how it is sampled, how many are sampled together, in which precision, on which device and with which
    versions. So a picture that is taken from here has the bits of the one that would be made.

    Args:
        folder: Where the files lie.
        model: The model; what it is, is read here, and not again.
        model_hash: The hash of its weight files (`files_hash`).
        precision: What its networks compute in: "float32", "float16" or another name of the Trainer's.
    """

    def __init__(self, folder: Path, model: StableDiffusion, model_hash: str, precision: str) -> None:
        self.folder = folder
        self._side = native_size(model)
        self._model = {
            "format": FORMAT,
            "model": model_hash,
            "weights": _sample_hash(model),
            "autoencoder": weights_hash(model.vae),
            "noise schedule": {name: model.scheduler_config.get(name) for name in NOISE_SCHEDULE},
            "precision": precision,
            "device": _device(model.unet.device),
            "versions": {
                name: version(name) for name in ("lightning-drift", "torch", "diffusers", "transformers")
            },
        }
        self._told = False

    def get(self, prompt: str, seed: int, sampling: Sampling, together: int) -> Image.Image | None:
        """A picture; None if it is not there or damaged.

        Args:
            prompt: Its prompt.
            seed: Its seed.
            sampling: How it is sampled; its own batch size does not matter.
            together: How many are sampled together.
        """
        text = self._text(prompt, seed, sampling, together)
        path = self._path(text)
        try:
            data = read_file(path) if path.is_file() else b""
            return decode(data).image if text_of(data, _TEXT) == text else None
        except (UndecodableError, OSError):
            return None

    def put(self, image: Image.Image, prompt: str, seed: int, sampling: Sampling, together: int) -> None:
        """Keep a picture. Where that is not possible, one line says why."""
        text = self._text(prompt, seed, sampling, together)
        try:
            write_png(self._path(text), Picture(None, "", image, {_TEXT: text}))
        except UserError as error:
            if not self._told:
                notice(f"the base's pictures cannot be kept for other runs: {error}")
            self._told = True

    def _text(self, prompt: str, seed: int, sampling: Sampling, together: int) -> str:
        settings = {**sampling.settings(), "generator_device": sampling.generator_device}
        del settings["batch_size"]
        settings |= {name: settings[name] or self._side for name in ("height", "width")}
        picture: Mapping[str, Any] = {"prompt": prompt, "seed": seed, "together": together, **settings}
        return json.dumps({**self._model, **picture}, sort_keys=True)

    def _path(self, text: str) -> Path:
        return self.folder / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.png"


def _sample_hash(model: StableDiffusion) -> str:
    """A hash of evenly spaced numbers of every trained tensor, rounded to float16.

    It is the same however the weights are kept, and tells a model that was changed after it was loaded.
    """
    digest = hashlib.blake2b(digest_size=16)
    for module in (model.unet, model.text_encoder):
        numbers = [
            flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].half()
            for _, parameter in sorted(module.named_parameters())
            if len(flat := parameter.detach().reshape(-1))
        ]
        digest.update(torch.cat(numbers).cpu().numpy().tobytes())
    return digest.hexdigest()


def _device(device: torch.device) -> str:
    """What rounds as it does: a GPU's name, or what a CPU's kernels are made for."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
