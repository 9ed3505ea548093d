"""The predict stage that dreams: prompts times seeds, one picture each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image
from torch.utils.data import DataLoader

from lightning_drift.common.errors import UserError
from lightning_drift.common.halving import Batch
from lightning_drift.common.model_name import model_name
from lightning_drift.common.number_lists import integers
from lightning_drift.common.numbers import MOST_TOGETHER, whole
from lightning_drift.common.out_of_memory import Remedy, during
from lightning_drift.common.prompt_lengths import tell_cut
from lightning_drift.common.prompt_lists import read_prompts, slug
from lightning_drift.images.infotext import infotext
from lightning_drift.images.picture import Picture
from lightning_drift.stable_diffusion.drift_dial import Drift, read_drift
from lightning_drift.stable_diffusion.interpolation import (
    base_of,
    interpolated,
    load_base_beside,
    refuse_untrained,
)
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened, open_pipeline
from lightning_drift.stable_diffusion.prompt_states import encode_prompts
from lightning_drift.stable_diffusion.sampling import DRIFT_MAP, Sampling, check_size, dream, native_size
from lightning_drift.stable_diffusion.sampling_drift import SamplingDrift, read_sampling_drift
from lightning_drift.stable_diffusion.with_base import WithBase
from lightning_drift.weights.hashes import files_hash

DREAM_PROMPT = "monumental, dramatic, atmospheric, transcendent"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


MOST_PICTURES = 500_000
"""Pictures of one run at most."""


@dataclass  # not frozen: Lightning refuses to carry frozen ones to a device
class DreamRequest:
    """One picture to make: a prompt and a seed."""

    prompt: str
    seed: int

    @property
    def row(self) -> str:
        """Its row in the contact sheet."""
        return self.prompt

    @property
    def column(self) -> str:
        """Its column in the contact sheet."""
        return str(self.seed)


class Prompts(LightningDataModule):
    """What to dream: every prompt with every seed.

    Args:
        prompts: One prompt (its commas kept), a ``.txt`` file with one prompt per line, or a list of prompts,
            which on a command line is a JSON list: ``'["a sea", "a wood"]'``.
        seeds: Seeds, such as ``0-31`` or ``1,5,9``.
        batch_size: Pictures sampled together; a larger batch is faster and needs more memory, and one that
            does not fit is halved. The picture of a seed is the same for any batch size, up to rounding.
    """

    def __init__(
        self,
        prompts: str | list[str] = DREAM_PROMPT,
        seeds: int | str | list[int] = "0-7",
        batch_size: int = 4,
    ) -> None:
        super().__init__()
        whole(batch_size, "data.batch_size", 1, MOST_TOGETHER)
        texts, numbers = read_prompts(prompts, "data.prompts"), integers(seeds, "data.seeds")
        if len(texts) * len(numbers) > MOST_PICTURES:
            raise UserError(
                f"{len(texts):,} prompts with {len(numbers):,} seeds each are more than {MOST_PICTURES:,} "
                "pictures; dream them in parts",
                "data",
            )
        self.requests = [DreamRequest(prompt, seed) for prompt in texts for seed in numbers]
        self.batch_size = batch_size

    def predict_dataloader(self) -> DataLoader[list[DreamRequest]]:
        """Whole batches, so that devices share out batches: a picture's bits follow from its batch's size."""
        size = self.batch_size
        batches = [self.requests[start : start + size] for start in range(0, len(self.requests), size)]
        return DataLoader(batches, batch_size=1, collate_fn=_first)  # type: ignore[arg-type]


def _first(batches: list[list[DreamRequest]]) -> list[DreamRequest]:
    return list(batches[0])


def dream_text(
    prompt: str,
    seed: int,
    sampling: Sampling,
    model: tuple[str, str],
    drift: tuple[Drift, SamplingDrift, str],
) -> str:
    """The ``parameters`` text of a dream: everything that decides it, but rounding.

    Args:
        prompt: The prompt.
        seed: Seed of the noise.
        sampling: How it is sampled; its height and width are given.
        model: The model's hash and name.
        drift: The drift, the sampling drift and the base's hash.
    """
    settings = {
        "Steps": sampling.num_inference_steps,
        "Sampler": "DDIM",
        "CFG scale": f"{sampling.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{sampling.width}x{sampling.height}",
        "Model hash": model[0],
        "Model": model[1],
        "RNG": "CPU" if sampling.generator_device == "cpu" else "GPU",
    }
    if drift[:2] != (1, 1):
        dials = {"Drift": drift[0], "Sampling drift": drift[1]}
        settings |= {name: f"{value:g}" for name, value in dials.items() if value != 1}
        settings["Drift base hash"] = drift[2]
    return infotext(prompt, sampling.negative_prompt, settings)


def map_of(picture: tuple[str, dict[str, str]], base_hash: str) -> tuple[str, dict[str, str]]:
    """File name and PNG text of the map beside a picture, by those of the picture and the base's hash."""
    name, text = picture
    return f"{name}_map", {"parameters": f"{text['parameters']}, Drift map base hash: {base_hash}"}


def smaller_pictures(sampling: Sampling) -> Remedy:
    """What makes a dream need less memory, where one at a time does not fit, whatever ``data.batch_size``."""
    return Remedy(
        "no data.batch_size is small enough: lower model.width and model.height, which are "
        f"{sampling.width}x{sampling.height}"
    )


class Dreamer(LightningModule):
    """Renders dreams from a pipeline: the base model, an export, or a checkpoint of a fit.

    Args:
        pipeline: A fit's checkpoint (``.ckpt``), a diffusers folder, a single ``.safetensors`` or ``.ckpt``
            file, a delta, a hub id, or ``pocket`` for the embedded model.
        base: Where to find the base pipeline of a fine-tune, if not where the fine-tune says.
        drift: Dream of W0 + drift (W - W0) instead of the model W, with its base's W0: 0 is the base, 1 the
            model, and up to 1.5 the drift goes on the way it went. ``unet=1,text_encoder=0.5`` turns each
            part by itself; one that is left out stays at 1.
        sampling_drift: Let base and model denoise together: e0 + a (e - e0), where e0 and e are the noise
            that they predict. A number, 0 (the base) to 3, for all steps; ``0/1@0.4`` for the base's layout
            and, from 40 % of the steps on, the model's texture, ``1/0@0.4`` for the reverse; ``0..1`` to go
            from one to the other. Steps at which a is neither 0 nor 1 take twice the time.
        drift_map: Also write, beside each dream, a map of where the two predict differently, ``_map.png``:
            the places where the photos show through.
        guidance_scale: Classifier-free guidance; at 3.0 the model mostly ignores the prompt, at 7-10 it
            obeys.
        num_inference_steps: DDIM steps.
        negative_prompt: What to steer away from; empty for none.
        height: Picture height in pixels, a multiple of 8 for SD v1.5; null for the model's own size.
        width: Picture width likewise.
        generator_device: Where the starting noise is drawn. "cpu": the same picture on any machine. "cuda":
            the noise of ``torch.Generator("cuda")``, as most notebooks draw it.
        dtype: Precision of UNet and text encoder; "auto" is float16 on a CUDA device and float32 elsewhere.
    """

    def __init__(
        self,
        pipeline: str = "pocket",
        base: str | None = None,
        drift: float | str = 1.0,
        sampling_drift: float | str = 1.0,
        drift_map: bool = False,
        guidance_scale: float = 3.0,
        num_inference_steps: int = 50,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        generator_device: Literal["cpu", "cuda"] = "cpu",
        dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.base = base
        self.drift = read_drift(drift, "model.drift")
        self.sampling_drift = read_sampling_drift(sampling_drift, "model.sampling_drift")
        self.drift_map = drift_map
        self._beside: WithBase | None = None
        self.sampling = Sampling.read(
            "model",
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            generator_device=generator_device,
        )
        self.dtype_name = dtype
        self.stable_diffusion: StableDiffusion | None = None
        self._hash = self._base_hash = ""
        self._batch = Batch(option="data.batch_size")

    def configure_model(self) -> None:
        """Load the pipeline, once.

        Raises:
            UserError: If it cannot be loaded, its base is not known though the drift is to be turned, or the
                picture size does not suit it.
        """
        if self.stable_diffusion is not None:
            return
        found = open_pipeline(self.pipeline, base=self.base)
        together = self.sampling_drift != 1 or self.drift_map
        if self.drift != 1 or together:
            refuse_untrained(found, self.drift, "model.drift")
            base = base_of(found, self.base)
            found = interpolated(found, base, self.drift)
            self._base_hash = files_hash(base.files)[:10]
        model = load_opened(found)
        if together:
            beside = load_base_beside(model, found, base)
            self.base_unet, self.base_text_encoder = beside.unet, beside.text_encoder
            self._beside = WithBase(beside, self.sampling_drift, self.drift_map, encode_prompts)
        check_size(model, "model", self.sampling.height, self.sampling.width)
        side = native_size(model)
        height, width = self.sampling.height or side, self.sampling.width or side
        self.sampling = replace(self.sampling, height=height, width=width)
        self.stable_diffusion = model
        self.unet, self.text_encoder = model.unet, model.text_encoder
        self._hash = model.hash[:10]

    def on_predict_start(self) -> None:
        """Put the parts where they will run: half precision on CUDA, the autoencoder in float32.

        Raises:
            UserError: If noise is to be drawn on a CUDA device that is not there, or the data are not
                prompts.
        """
        assert self.stable_diffusion is not None
        self.sampling.check_device("model")
        data = getattr(self.trainer, "datamodule", None)
        requests = getattr(data, "requests", [])
        if (data is not None and not hasattr(data, "requests")) or not all(
            isinstance(request, DreamRequest) for request in requests
        ):
            raise UserError("Dreamer renders prompts; give it lightning_drift.Prompts", "data")
        prompts = [request.prompt for request in requests]
        tell_cut(self.stable_diffusion.tokenizer, [*prompts, self.sampling.negative_prompt])
        auto = torch.float16 if self.device.type == "cuda" else torch.float32
        networks = [self.unet, self.text_encoder]
        if self._beside is not None:
            networks += [self.base_unet, self.base_text_encoder]
        for module in networks:
            torch.nn.Module.to(module, DTYPES.get(self.dtype_name, auto))
        self.stable_diffusion.vae.to(self.device)

    def describe(self, request: DreamRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text of a request's picture; the text holds what decides it, but rounding."""
        model = (self._hash, model_name(self.pipeline))
        drift = (self.drift, self.sampling_drift, self._base_hash)
        text = dream_text(request.prompt, request.seed, self.sampling, model, drift)
        return f"{slug(request.prompt)}_seed{request.seed:04d}", {"parameters": text}

    def describe_beside(self, request: DreamRequest) -> tuple[str, dict[str, str]] | None:
        """Likewise of the map beside a request's picture; None where there are no maps."""
        return map_of(self.describe(request), self._base_hash) if self.drift_map else None

    def predict_step(self, batch: list[DreamRequest], *_: Any) -> list[Picture]:
        """Render a batch of requests."""
        if not batch:
            return []
        assert self.stable_diffusion is not None
        model, sampling = self.stable_diffusion, self.sampling

        def some(part: Sequence[DreamRequest]) -> list[Image.Image]:
            prompts, seeds = [each.prompt for each in part], [each.seed for each in part]
            return dream(model, prompts, seeds, sampling, beside=self._beside)

        with during("one dream at a time", lambda _: smaller_pictures(sampling)):
            images = self._batch.map(batch, some)
        pictures = []
        for request, image in zip(batch, images, strict=True):
            name, text = self.describe(request)
            picture = Picture(request, name, image, text, row=request.row, column=request.column)
            if beside := self.describe_beside(request):
                picture.beside = Picture(request, beside[0], image.info[DRIFT_MAP], beside[1])
            pictures.append(picture)
        return pictures
