"""SweepDreamer: renders the pictures of a sweep, model by model."""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.common.halving import Batch
from lightning_drift.common.out_of_memory import during
from lightning_drift.common.prompt_lengths import tell_cut
from lightning_drift.common.prompt_lists import slug
from lightning_drift.dreams.dreamer import DTYPES, dream_text, map_of, smaller_pictures
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.picture import Picture, parameters_digest
from lightning_drift.stable_diffusion.drift_dial import Drift
from lightning_drift.stable_diffusion.interpolation import interpolated, load_base_beside, load_weights_
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline
from lightning_drift.stable_diffusion.picture_cache import PictureCache
from lightning_drift.stable_diffusion.prompt_states import EncodedPrompts
from lightning_drift.stable_diffusion.sampling import DRIFT_MAP, Sampling, dream
from lightning_drift.stable_diffusion.with_base import WithBase
from lightning_drift.sweep.cells import SweepRequest
from lightning_drift.sweep.models import SweepModel
from lightning_drift.sweep.plan import plan
from lightning_drift.sweep.report import SweepReport, refuse_foreign
from lightning_drift.weights.hashes import files_hash

IMAGES = "images"
"""The folder of a sweep's pictures, within the output folder."""


class SweepDreamer(LightningModule):
    """Renders a sweep's pictures, and writes its index, contact sheets and ranking page at the end.

    What is swept is said by the data. A picture is the one that ``predict`` makes of the same settings, up to
    rounding, and carries the same parameters. Each batch is filled up to the data's ``batch_size`` and
    prompts are encoded one by one, so that a picture's bits do not follow from what else is left to do. A
    batch that does not fit into the memory is halved, and filled up to that size from then on.

    Args:
        negative_prompt: What to steer away from; empty for none.
        height: Picture height in pixels, a multiple of 8 for SD v1.5; null for the model's own size.
        width: Picture width likewise.
        generator_device: Where the starting noise is drawn. "cpu": the same picture on any machine. "cuda":
            the noise of ``torch.Generator("cuda")``, as most notebooks draw it.
        dtype: Precision of UNet and text encoder; "auto" is float16 on a CUDA device and float32 elsewhere.
        cache_dir: Folder where the pictures of base models are kept for all sweeps and fits of that base;
            null for none.
        drift_map: Also write, beside each picture of a fine-tune, a map of where it and its base predict
            differently, ``_map.png``; the page lays it over the picture.
    """

    def __init__(
        self,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        generator_device: Literal["cpu", "cuda"] = "cpu",
        dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
        cache_dir: str | None = None,
        drift_map: bool = False,
    ) -> None:
        super().__init__()
        self.cache_dir = cache_dir
        self.drift_map = drift_map
        self._cache: PictureCache | None = None  # of the loaded model, if it is a base
        self.sampling = Sampling.read(
            "model",
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            generator_device=generator_device,
        )
        self.dtype_name = dtype
        self._loaded: StableDiffusion | None = None
        self._model: SweepModel | None = None
        self._drift: Drift = 1.0
        self._encode = EncodedPrompts(lasting=False)
        self._base: tuple[SweepModel, StableDiffusion, EncodedPrompts] | None = None  # beside the model
        self._prompts: list[str] = []
        self._lengths_told: set[int] = set()
        self._batch = Batch(option="data.batch_size", filled=True)

    def configure_callbacks(self) -> Sequence[Callback]:
        """What is done with the pictures when all are made."""
        return [SweepReport()]

    def setup(self, stage: str) -> None:
        """Refuse what cannot be rendered.

        Raises:
            UserError: Noise is to be drawn on a CUDA device that is not there, or the data is not a sweep.
        """
        self.sampling.check_device("model")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        _check_sweep(data)
        self._prompts = data.prompts

    def predict_plan(self, trainer: Trainer, data: Any, dry_run: bool) -> str:
        """What the sweep takes, in a few lines, before anything is made; the command line prints it.

        Args:
            trainer: What will run it.
            data: The sweep.
            dry_run: Whether the plan is all; it is the same either way.

        Raises:
            UserError: The data is not a sweep, a model cannot be found, or an option does not fit it.
        """
        _check_sweep(data)
        self._prompts = data.prompts
        writer = next(c for c in trainer.callbacks if isinstance(c, ImageWriter))  # type: ignore[attr-defined]
        refuse_foreign(writer.output_dir)
        if writer.format.ending != ".png":
            raise UserError(
                "a sweep's page and tables name PNG files; leave it at png", "image_writer.format"
            )
        return plan(data, self, writer.output_dir, trainer.strategy.root_device, trainer.world_size)

    def describe(self, request: SweepRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text of a picture; both follow from the request alone."""
        model, base = request.model, request.model.base
        drift = (request.drift, request.sampling_drift, base.hash if base else "")
        text = dream_text(
            request.prompt, request.seed, self.sampling_of(request), (model.hash, model.stem), drift
        )
        name = f"{slug(request.prompt)}_seed{request.seed:04d}_{parameters_digest(text)}"
        return f"{IMAGES}/{name}", {"parameters": text}

    def describe_beside(self, request: SweepRequest) -> tuple[str, dict[str, str]] | None:
        """Likewise of the map beside a picture; None of a picture without."""
        base = request.model.base
        return map_of(self.describe(request), base.hash) if self.drift_map and base else None

    def sampling_of(self, request: SweepRequest) -> Sampling:
        """How a picture is sampled: with its own guidance and steps, in the size of its model.

        Raises:
            UserError: The size is not a whole number of the model's latent cells.
        """
        height, width = request.model.size(self.sampling.height, self.sampling.width)
        return replace(
            self.sampling,
            guidance_scale=request.guidance_scale,
            num_inference_steps=request.num_inference_steps,
            height=height,
            width=width,
        )

    def predict_step(self, batch: list[SweepRequest], *_: Any) -> list[Picture]:
        """Render a batch, all of one model, step count and guidance or none."""
        if not batch:
            return []
        size = max(len(batch), self.trainer.datamodule.batch_size)  # type: ignore[attr-defined]
        images = self.render(batch, size, self.device)
        return [self._picture(request, image) for request, image in zip(batch, images, strict=True)]

    def _picture(self, request: SweepRequest, image: Any) -> Picture:
        name, text = self.describe(request)
        beside = self.describe_beside(request)
        drift_map = Picture(request, beside[0], image.info[DRIFT_MAP], beside[1]) if beside else None
        return Picture(request, name, image, text, beside=drift_map)

    def render(self, requests: Sequence[SweepRequest], size: int, device: torch.device) -> list[Any]:
        """The pictures of requests that can be sampled together, in batches of a size, on a device."""
        self._use(requests[0].model, requests[0].drift, device)
        self._batch.size = together = self._batch.size or size
        cache = self._cache
        if cache is None:
            return self._made(requests)
        known = {each: cache.get(*self._key(each), together) for each in requests}
        missing = [each for each in requests if known[each] is None]
        images = self._made(missing)
        for each, image in zip(missing, images, strict=True):
            cache.put(image, *self._key(each), self._batch.size)
        known |= zip(missing, images, strict=True)
        return [known[each] for each in requests]

    def _key(self, request: SweepRequest) -> tuple[str, int, Sampling]:
        return request.prompt, request.seed, self.sampling_of(request)

    def _made(self, requests: Sequence[SweepRequest]) -> list[Any]:
        """Pictures of the loaded model."""
        if not requests:
            return []
        sampling, beside = self.sampling_of(requests[0]), self._beside(requests[0])
        with during("one picture of the sweep at a time", lambda _: smaller_pictures(sampling)):
            return self._batch.map(requests, lambda part: self._filled(part, sampling, beside))

    def _filled(
        self, requests: Sequence[SweepRequest], sampling: Sampling, beside: WithBase | None
    ) -> list[Any]:
        """The pictures of requests, in a batch that is filled up to its size."""
        assert self._loaded is not None
        assert self._batch.size is not None
        filled = [*requests, *[requests[-1]] * (self._batch.size - len(requests))]
        return dream(
            self._loaded,
            [request.prompt for request in filled],
            [request.seed for request in filled],
            sampling,
            guidance_scales=[request.guidance_scale for request in filled],
            encode=self._encode,
            beside=beside,
        )[: len(requests)]

    def trial(self, request: SweepRequest, size: int, device: torch.device) -> tuple[float, float, float]:
        """Seconds that loading a model, one batch without its steps, and a step of a batch take, measured.

        The model denoises alone. A batch of a size that does not fit counts as the smaller ones that it is
        made in.
        """
        started = perf_counter()
        self._use(request.model, request.drift, device)
        loading = perf_counter() - started
        self._batch.size = self._batch.size or size
        taken = []
        for steps in (1, 1, 3):  # the first one warms up
            sampling = self.sampling_of(replace(request, num_inference_steps=steps))
            started = perf_counter()
            self._batch.map([request] * size, lambda part: self._filled(part, sampling, None))  # noqa: B023
            taken.append(perf_counter() - started)
        taken = taken[1:]
        step = max(0.0, taken[1] - taken[0]) / 2
        return loading, max(0.0, taken[0] - step), step

    # -- models -----------------------------------------------------------------------------------------

    def _use(self, model: SweepModel, drift: Drift, device: torch.device) -> None:
        """Load a model at a drift; between drifts of one model only its weights are turned, in place."""
        if self._model is model and self._drift == drift:
            return
        opened = _at(model, drift)
        if self._model is model and self._loaded is not None:
            load_weights_({part: getattr(self._loaded, part) for part in TRAINED}, opened.weights)
        else:
            self._loaded = self._model = None  # so that two are not in memory together
            if self._base is not None and self._base[0] is not model.base:
                self._base = None
            self._loaded = load_opened(opened)
            self._place(self._loaded, device)
            self._loaded.vae.to(device)
            self._tell_cut()
        self._model, self._drift = model, drift
        self._encode = EncodedPrompts(lasting=False)
        self._cache = None
        if self.cache_dir is not None and model.base is None:
            folder = user_path(self.cache_dir, "model.cache_dir")
            precision = str(self._loaded.unet.dtype).removeprefix("torch.")
            self._cache = PictureCache(folder, self._loaded, files_hash(model.opened.files), precision)

    def _place(self, model: StableDiffusion, device: torch.device) -> None:
        auto = torch.float16 if device.type == "cuda" else torch.float32
        for module in (model.unet, model.text_encoder):
            torch.nn.Module.to(module, device, DTYPES.get(self.dtype_name, auto))

    def _beside(self, request: SweepRequest) -> WithBase | None:
        """The base beside the loaded model, where the request asks for it."""
        origin = request.model.base
        if origin is None or (request.sampling_drift == 1 and not self.drift_map):
            return None
        assert self._loaded is not None
        if self._base is None:
            base = load_base_beside(self._loaded, request.model.opened, origin.opened)
            self._place(base, self._loaded.unet.device)
            self._base = origin, base, EncodedPrompts(lasting=False)
        return WithBase(self._base[1], request.sampling_drift, self.drift_map, self._base[2])

    def _tell_cut(self) -> None:
        """Say once for each tokenizer's length which of the sweep's prompts are longer."""
        assert self._loaded is not None
        tokenizer = self._loaded.tokenizer
        if self._prompts and tokenizer.model_max_length not in self._lengths_told:
            self._lengths_told.add(tokenizer.model_max_length)
            tell_cut(tokenizer, [*self._prompts, self.sampling.negative_prompt])

    def release(self) -> None:
        """Give back the memory of the model that was used last."""
        self._loaded = self._model = self._cache = self._base = None
        self._encode = EncodedPrompts(lasting=False)


def _at(model: SweepModel, drift: Drift) -> OpenedPipeline:
    if drift == 1 or model.base is None:
        return model.opened
    return interpolated(model.opened, model.base.opened, drift)


def _check_sweep(data: Any) -> None:
    if not hasattr(data, "grid"):
        raise UserError("SweepDreamer renders sweeps; give it data of lightning_drift.Sweep", "model")
