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
from lightning_drift.images.png import Picture
from lightning_drift.stable_diffusion.drift_dial import Drift, read_drift
from lightning_drift.stable_diffusion.interpolation import base_of, interpolated, refuse_untrained
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened, open_pipeline
from lightning_drift.stable_diffusion.sampling import Sampling, check_size, dream, native_size
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

    def predict_dataloader(self) -> DataLoader[DreamRequest]:
        """Batches are lists of requests; Lightning shares them out over the devices, none twice."""
        return DataLoader(self.requests, batch_size=self.batch_size, collate_fn=list)  # type: ignore[arg-type]


def dream_text(
    prompt: str, seed: int, sampling: Sampling, model: tuple[str, str], drift: tuple[Drift, str] | None
) -> str:
    """The ``parameters`` text of a dream: everything that decides it, but rounding.

    Args:
        prompt: The prompt.
        seed: Seed of the noise.
        sampling: How it is sampled; its height and width are given.
        model: The model's hash and name.
        drift: The drift and the base's hash; None for the model as it is.
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
    if drift is not None:
        settings |= {"Drift": f"{drift[0]:g}", "Drift base hash": drift[1]}
    return infotext(prompt, sampling.negative_prompt, settings)


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
        if self.drift != 1:
            refuse_untrained(found, self.drift, "model.drift")
            base = base_of(found, self.base)
            found = interpolated(found, base, self.drift)
            self._base_hash = files_hash(base.files)[:10]
        model = load_opened(found)
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
        for module in (self.unet, self.text_encoder):
            torch.nn.Module.to(module, DTYPES.get(self.dtype_name, auto))
        self.stable_diffusion.vae.to(self.device)

    def describe(self, request: DreamRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text of a request's picture; the text holds what decides it, but rounding."""
        model = (self._hash, model_name(self.pipeline))
        drift = None if self.drift == 1 else (self.drift, self._base_hash)
        text = dream_text(request.prompt, request.seed, self.sampling, model, drift)
        return f"{slug(request.prompt)}_seed{request.seed:04d}", {"parameters": text}

    def predict_step(self, batch: list[DreamRequest], *_: Any) -> list[Picture]:
        """Render a batch of requests."""
        if not batch:
            return []
        assert self.stable_diffusion is not None
        model, sampling = self.stable_diffusion, self.sampling

        def some(part: Sequence[DreamRequest]) -> list[Image.Image]:
            return dream(model, [each.prompt for each in part], [each.seed for each in part], sampling)

        with during("one dream at a time", lambda _: smaller_pictures(sampling)):
            images = self._batch.map(batch, some)
        pictures = []
        for request, image in zip(batch, images, strict=True):
            name, text = self.describe(request)
            pictures.append(Picture(request, name, image, text, row=request.row, column=request.column))
        return pictures
