"""The predict stage that dreams: prompts times seeds, one picture each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

from lightning_drift.common.errors import UserError
from lightning_drift.common.number_lists import integers
from lightning_drift.common.prompt_lists import read_prompts, slug
from lightning_drift.images.infotext import infotext
from lightning_drift.images.png import Picture
from lightning_drift.stable_diffusion.interpolation import base_of, check_drift, interpolated
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened, open_pipeline
from lightning_drift.stable_diffusion.sampling import check_size, dream, native_size
from lightning_drift.weights.hashes import files_hash

DREAM_PROMPT = "monumental, dramatic, atmospheric, transcendent"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
        prompts: One prompt (its commas kept), a ``.txt`` file with a prompt a line, or a list of prompts.
        seeds: Seeds, such as ``0-31`` or ``1,5,9``.
        batch_size: Pictures sampled together; a larger batch is faster and needs more memory. The picture of
            a seed is the same for any batch size, up to rounding.
    """

    def __init__(
        self,
        prompts: str | list[str] = DREAM_PROMPT,
        seeds: int | str | list[int] = "0-7",
        batch_size: int = 4,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"{batch_size} is not a number of pictures; give 1 or more", "data.batch_size")
        self.requests = [
            DreamRequest(prompt, seed)
            for prompt in read_prompts(prompts, "data.prompts")
            for seed in integers(seeds, "data.seeds")
        ]
        self.batch_size = batch_size

    def predict_dataloader(self) -> DataLoader[DreamRequest]:
        """Batches are lists of requests; Lightning shares them out over the devices, none twice."""
        return DataLoader(self.requests, batch_size=self.batch_size, collate_fn=list)  # type: ignore[arg-type]


def dream_text(
    prompt: str,
    negative_prompt: str,
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    size: tuple[int, int],
    model: tuple[str, str],
    drawn_on: str,
    dialled: tuple[float, str] | None,
) -> str:
    """The ``parameters`` text of a dream: everything that decides it, but rounding.

    Args:
        prompt: The prompt.
        negative_prompt: The negative prompt.
        steps: DDIM steps.
        guidance_scale: Guidance scale.
        seed: Seed of the noise.
        size: Width and height in pixels.
        model: The model's hash and name.
        drawn_on: Where the noise was drawn, ``cpu`` or ``cuda``.
        dialled: The drift and the base's hash; None for the model as it is.
    """
    settings = {
        "Steps": steps,
        "Sampler": "DDIM",
        "CFG scale": f"{guidance_scale:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": model[0],
        "Model": model[1],
        "RNG": "CPU" if drawn_on == "cpu" else "GPU",
    }
    if dialled is not None:
        settings |= {"Drift": f"{dialled[0]:g}", "Drift base hash": dialled[1]}
    return infotext(prompt, negative_prompt, settings)


class Dreamer(LightningModule):
    """Renders dreams from a pipeline: the base model, an export, or a checkpoint of a fit.

    Args:
        pipeline: A fit's checkpoint (``.ckpt``), a diffusers folder, a single ``.safetensors`` or ``.ckpt``
            file, a delta, a hub id, or ``pocket`` for the embedded model.
        base: Where to find the base pipeline of a fine-tune, if not where the fine-tune says.
        drift: Dream of W0 + drift (W - W0) instead of the model W, with its base's W0: 0 is the base, 1 the
            model, and up to 1.5 the drift goes on the way it went.
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
        drift: float = 1.0,
        guidance_scale: float = 3.0,
        num_inference_steps: int = 50,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        generator_device: Literal["cpu", "cuda"] = "cpu",
        dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= guidance_scale <= 100:
            raise UserError(
                f"{guidance_scale} is out of range; give 0 to 100, the recipe's is 3.0",
                "model.guidance_scale",
            )
        if not 1 <= num_inference_steps <= 1000:
            raise UserError(
                f"{num_inference_steps} is out of range; give 1 to 1000", "model.num_inference_steps"
            )
        self.pipeline = pipeline
        self.base = base
        self.drift = check_drift(drift, "model.drift")
        self.guidance_scale = guidance_scale
        self.num_inference_steps = num_inference_steps
        self.negative_prompt = negative_prompt
        self.height = height
        self.width = width
        self.generator_device = generator_device
        self.dtype_name = dtype
        self.parts: StableDiffusion | None = None
        self._hash = self._base_hash = ""

    def configure_model(self) -> None:
        """Load the pipeline, once.

        Raises:
            UserError: If it cannot be loaded, its base is not known though the drift is to be turned, or the
                picture size does not suit it.
        """
        if self.parts is not None:
            return
        found = open_pipeline(self.pipeline, base=self.base)
        if self.drift != 1:
            base = base_of(found, self.base)
            found = interpolated(found, base, self.drift)
            self._base_hash = files_hash(base.files)[:10]
        parts = load_opened(found)
        check_size(parts, "model", self.height, self.width)
        side = native_size(parts)
        self.height, self.width = self.height or side, self.width or side
        self.parts = parts
        self.unet, self.text_encoder = parts.unet, parts.text_encoder
        self._hash = parts.hash[:10]

    def on_predict_start(self) -> None:
        """Put the parts where they will run: half precision on CUDA, the autoencoder in float32.

        Raises:
            UserError: If noise is to be drawn on a CUDA device that is not there.
        """
        assert self.parts is not None
        if self.generator_device == "cuda" and not torch.cuda.is_available():
            raise UserError("there is no CUDA device here; use cpu", "model.generator_device")
        auto = torch.float16 if self.device.type == "cuda" else torch.float32
        for module in (self.unet, self.text_encoder):
            torch.nn.Module.to(module, DTYPES.get(self.dtype_name, auto))
        self.parts.vae.to(self.device)

    def describe(self, request: DreamRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text of a request's picture; the text holds what decides it, but rounding."""
        text = dream_text(
            request.prompt,
            self.negative_prompt,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=request.seed,
            size=(self.width or 0, self.height or 0),
            model=(self._hash, Path(self.pipeline).stem),
            drawn_on=self.generator_device,
            dialled=None if self.drift == 1 else (self.drift, self._base_hash),
        )
        return f"{slug(request.prompt)}_seed{request.seed:04d}", {"parameters": text}

    def predict_step(self, batch: list[DreamRequest], *_: Any) -> list[Picture]:
        """Render a batch of requests."""
        if not batch:
            return []
        assert self.parts is not None
        images = dream(
            self.parts,
            [request.prompt for request in batch],
            [request.seed for request in batch],
            negative_prompt=self.negative_prompt,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            height=self.height,
            width=self.width,
            generator_device=self.device if self.generator_device == "cuda" else "cpu",
        )
        pictures = []
        for request, image in zip(batch, images, strict=True):
            name, text = self.describe(request)
            pictures.append(Picture(request, name, image, text, row=request.row, column=request.column))
        return pictures
