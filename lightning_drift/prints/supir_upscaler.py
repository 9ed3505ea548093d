"""The predict stage that upscales pictures: SUPIR on an SDXL base."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.halving import Batch
from lightning_drift.common.model_name import model_name
from lightning_drift.common.numbers import whole
from lightning_drift.common.out_of_memory import Remedy, during, exhausted, forget, give_back
from lightning_drift.common.prompt_lists import check_text
from lightning_drift.common.text import byte_size
from lightning_drift.images.decode import Source, UndecodableError, read_source
from lightning_drift.images.infotext import infotext
from lightning_drift.images.picture import Picture
from lightning_drift.images.profiles import profile_name
from lightning_drift.prints.failures import Failures
from lightning_drift.prints.finish import finished
from lightning_drift.prints.images import UpscaleRequest
from lightning_drift.prints.paper import Sheet
from lightning_drift.prints.plan import Costs, Route, plan
from lightning_drift.prints.proof_report import ProofReport
from lightning_drift.prints.restoring import PrintTask, restored
from lightning_drift.prints.sizes import Frame, Sizing, to_image, to_pixels
from lightning_drift.prints.trial import costs
from lightning_drift.supir.memory.levels import Memory, smaller
from lightning_drift.supir.network.find import find_lora, find_sdxl, find_supir, find_vae
from lightning_drift.supir.network.lora import LoraFile, split_weight
from lightning_drift.supir.network.weights import Checkpoints, open_checkpoints
from lightning_drift.supir.options import (
    Dtype,
    check_autoencoder_tiles,
    check_ranges,
    precision,
    read_windows,
)
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.samplers import EdmSampling
from lightning_drift.supir.settings import LATENT, ColorFix, Method

LICENCE = (
    "SUPIR's weights are licensed by their owner, SupPixel, for non-commercial use only; none come with this "
    "program"
)
MOST_PASSES = 4
PROMPT = "sharp textures, fine grain, rich color depth"
NEGATIVE_PROMPT = "blurry, low quality, jpeg artifacts"


class SupirUpscaler(LightningModule):
    """Upscales pictures with SUPIR v0 (Yu et al. 2024, arXiv:2401.13627) on an SDXL base model.

    The defaults enlarge 512x512 to 2048x2048. Every result is exactly `upscale` times its input, or has
    exactly the pixels of its paper (``data.print``). An RGB profile is kept, and transparency where there is
    no paper. SUPIR's weights are licensed for non-commercial use.

    Args:
        supir: SUPIR's own weights: ``SUPIR-v0Q.ckpt`` (quality; heavy degradations), ``SUPIR-v0F.ckpt``
            (fidelity; light ones), or their pruned ``.safetensors``. A local file, or
            ``owner/repository/file`` on the hub.
        sdxl: The SDXL base with its autoencoder and text encoders: a single-file checkpoint, a diffusers
            folder, or a hub id.
        vae: An autoencoder in place of the base's own, where that is broken, as in some merged models: a file
            such as ``sdxl_vae.safetensors``, a whole checkpoint, a diffusers folder, or a hub id such as
            ``madebyollin/sdxl-vae-fp16-fix``. It must be an SDXL one; null for the base's.
        lora: LoRAs to add to the base's UNet and text encoders: a file, or ``file.safetensors:0.8`` for a
            weight (-10 to 10), or a list of them; local, or ``owner/repository/file`` on the hub. Names of
            kohya's and A1111's, PEFT's and diffusers' layers are known; null for none.
        prompt: General prompt, added to the caption of each picture ("a_prompt").
        negative_prompt: What to steer away from ("n_prompt").
        upscale: Scale of the output, 0.25 to 16; ``data.print`` takes its place.
        passes: How often a picture is enlarged and restored on its way, in equal steps, 1 to 4. auto: as
            often as keeps every step at 4, which SUPIR was trained for, or below.
        min_size: Shortest side to process, in pixels; smaller pictures are enlarged to it and shrunk back.
        edm_steps: Sampler steps, 2 to 999.
        s_cfg: Guidance scale at the end of sampling.
        linear_cfg: Let the guidance scale run from `spt_linear_cfg` to `s_cfg`; false keeps `s_cfg`.
        spt_linear_cfg: Guidance scale at the start of sampling.
        s_stage1: Restoration scale: pulls towards the stage-1 picture, smaller is stronger; 0 or less is off.
        control_scale: How closely the picture's own structure is followed, 0 (not at all) to 1 ("s_stage2").
        linear_control: Let the control scale run from `spt_linear_control` to `control_scale`.
        spt_linear_control: Control scale at the start of sampling ("spt_linear_s_stage2").
        s_churn: Noise added back during sampling (edm sampler), 0 or more.
        s_noise: Factor of added noise.
        eta: Stochasticity of the dpmpp_2m_sde sampler, 0 to 1.
        sampler: edm (the default of SUPIR), or dpmpp_2m_sde, for distilled "lightning" base models and few
            steps.
        color_fix: Take coarse colours from a reference picture: Wavelet (all coarse structure), AdaIn (mean
            and spread of the whole), Lab (hue and lightness of each neighbourhood, along the result's own
            edges, so without halos) or None.
        color_reference: That reference: stage1, the picture decoded after the first encoder, or input, the
            picture itself.
        tile_size: Sample in overlapping windows of so many pixels, a multiple of 32, which needs less memory
            and, for pictures that are not very large, more operations; 0 samples every picture whole. auto:
            pictures of more pixels than a square of twice `min_size` in windows of `min_size`, others whole.
        tile_overlap: Smallest overlap of neighbouring windows in pixels, a multiple of 8; null for half a
            window, or a quarter with ``tile_size: auto``.
        tile_batch: Windows that go through the network together.
        diff_dtype: Precision of the network; auto is float16 on a GPU and float32 on a CPU.
        ae_dtype: Precision of the autoencoder, float32 or bfloat16; auto is bfloat16 on a GPU that has it,
            else float32.
        memory: Measures against running out of memory, each with those before it. full: none. offload: parts
            are on the device only while they work. sequential: guidance in two passes, the autoencoder in
            strips. stream: the network's weights come layer by layer. 8bit: sequential with 8-bit weights,
            the only one that changes the picture beyond rounding. auto chooses one of the first four from the
            free memory and says why.
        compile: Compile the network with torch.compile: minutes at the start and for each new picture size,
            faster steps after.
        size_condition: Edge of the picture that the model is told it paints, 256 to 4096; SUPIR knows 1024.
        stage1: Also write, beside each print, what the first stage made of its picture, ``_stage1``: cleaned,
            and not yet sampled. The proof page (``data.page``) shows it.
        reference_numerics: Do everything as the original program does, its quirks included: prompts joined
            without a separator, pictures stretched to multiples of 64, bfloat16 noise levels, sampled
            posterior, its noise order, asymmetric tile weights, truncated pixels.
        encoder_tile_size: With reference_numerics, tile the encoder as the original does, in pixels (its
            default is 512); 0 does not. Otherwise the memory option chooses an exact way.
        decoder_tile_size: Likewise for the decoder, in latent cells of 8 pixels (its default is 64).
    """

    def __init__(
        self,
        supir: str = "SUPIR-v0Q.ckpt",
        sdxl: str = "RunDiffusion/Juggernaut-XL-v9",
        vae: str | None = None,
        lora: str | list[str] | None = None,
        prompt: str = PROMPT,
        negative_prompt: str = NEGATIVE_PROMPT,
        upscale: float = 4.0,
        passes: int | Literal["auto"] = "auto",
        min_size: int = 1024,
        edm_steps: int = 30,
        s_cfg: float = 3.0,
        linear_cfg: bool = True,
        spt_linear_cfg: float = 1.0,
        s_stage1: float = -1.0,
        control_scale: float = 0.9,
        linear_control: bool = False,
        spt_linear_control: float = 0.0,
        s_churn: float = 5.0,
        s_noise: float = 1.01,
        eta: float = 1.0,
        sampler: Literal["edm", "dpmpp_2m_sde"] = "edm",
        color_fix: ColorFix = "Wavelet",
        color_reference: Literal["stage1", "input"] = "stage1",
        tile_size: int | Literal["auto"] = "auto",
        tile_overlap: int | None = None,
        tile_batch: int = 1,
        diff_dtype: Dtype = "auto",
        ae_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        memory: Memory = "auto",
        compile: bool = False,
        size_condition: int = 1024,
        stage1: bool = False,
        reference_numerics: bool = False,
        encoder_tile_size: int = 0,
        decoder_tile_size: int = 0,
    ) -> None:
        super().__init__()
        check_ranges(
            {
                "upscale": upscale,
                "min_size": min_size,
                "edm_steps": edm_steps,
                "s_cfg": s_cfg,
                "spt_linear_cfg": spt_linear_cfg,
                "s_stage1": s_stage1,
                "control_scale": control_scale,
                "spt_linear_control": spt_linear_control,
                "s_churn": s_churn,
                "s_noise": s_noise,
                "eta": eta,
                "size_condition": size_condition,
                "tile_batch": tile_batch,
            }
        )
        check_text(prompt, "model.prompt")
        check_text(negative_prompt, "model.negative_prompt")
        if passes != "auto":
            whole(passes, "model.passes", 1, MOST_PASSES)
        self.windows = read_windows(tile_size, tile_overlap, min_size)
        check_autoencoder_tiles(encoder_tile_size, decoder_tile_size, reference_numerics)
        if compile and memory == "stream":
            raise UserError("does not go with model.memory: stream; switch one of them off", "model.compile")
        self.supir, self.sdxl, self.vae = supir, sdxl, vae
        names = [lora] if isinstance(lora, str) else lora or []
        self.loras = [split_weight(name, "model.lora") for name in names]
        self.prompt, self.negative_prompt = prompt, negative_prompt
        self.sizing = Sizing(upscale, min_size, None if passes == "auto" else passes, reference_numerics)
        self.sampling = EdmSampling(
            sampler=sampler,
            steps=edm_steps,
            s_cfg=s_cfg,
            spt_linear_cfg=spt_linear_cfg if linear_cfg else None,
            s_stage1=s_stage1,
            control_scale=control_scale,
            spt_control_scale=spt_linear_control if linear_control else None,
            s_churn=s_churn,
            s_noise=s_noise,
            eta=eta,
            reference=reference_numerics,
        )
        self.color_fix, self.color_reference = color_fix, color_reference
        self.tile_batch = tile_batch
        self.diff_dtype, self.ae_dtype = diff_dtype, ae_dtype
        self.memory: Memory = memory
        self.compile_network = compile
        self.size_condition = size_condition
        self.stage1 = stage1
        self.vae_tiles = (encoder_tile_size, decoder_tile_size) if encoder_tile_size else None
        self.checkpoints: Checkpoints | None = None
        self.failures = Failures()
        self._restorer: Restorer | None = None
        self._batch = Batch(option="data.batch_size")
        self._hashes: dict[str, str] = {}
        self._sources: tuple[Path, Source] | None = None

    # -- before the first picture ------------------------------------------------------------------

    def configure_callbacks(self) -> Sequence[Callback]:
        """What is done with the prints when all are made."""
        return [ProofReport(settings=True)]

    def setup(self, stage: str) -> None:
        """Open and check both models, reading no weights.

        Raises:
            UserError: A model is missing, damaged, incomplete or of another kind.
        """
        if self.supir != "pocket":
            notice(LICENCE)
        if self.checkpoints is None:
            self.checkpoints = open_checkpoints(
                find_supir(self.supir),
                find_sdxl(self.sdxl),
                vae=None if self.vae is None else find_vae(self.vae),
                loras=[LoraFile(find_lora(name), weight) for name, weight in self.loras],
            )
            self._hashes = self.checkpoints.hashes()
            if self.cell != LATENT and self.vae_tiles is not None:
                raise UserError(
                    f"the autoencoder of {self.sdxl} has {self.cell} pixels a "
                    "latent cell, and the original's tiles are made for 8; use model.memory: sequential",
                    "model.encoder_tile_size",
                )

    @property
    def cell(self) -> int:
        """Pixels a side of a latent cell: 8 for SDXL, 4 for the pocket."""
        if self.checkpoints is None:
            return LATENT
        return int(2 ** (len(self.checkpoints.sdxl.configs["vae"]["block_out_channels"]) - 1))

    def method(self) -> Method:
        """How pictures are restored on this module's device."""
        return Method(
            sampling=self.sampling,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            color_fix=self.color_fix,
            color_reference=self.color_reference,
            tile=self.windows.size // self.cell,
            stride=(self.windows.size - self.windows.overlap) // self.cell,
            whole=self.windows.beyond,
            tile_batch=self.tile_batch,
            diff_dtype=precision(self.diff_dtype, "network", self.device),
            ae_dtype=precision(self.ae_dtype, "autoencoder", self.device),
            vae_tiles=self.vae_tiles,
            memory=self.memory,
            compile=self.compile_network,
            size=self.size_condition,
            cell=self.cell,
        )

    def on_predict_start(self) -> None:
        """Forget failures of an earlier run."""
        self.failures = Failures()

    def predict_plan(self, trainer: Trainer, data: Any, dry_run: bool) -> str | None:
        """What the prints take, in a few lines, before anything is made; the command line prints it.

        Raises:
            UserError: A model is missing, damaged, incomplete or of another kind.
        """
        if not dry_run:
            return None
        self.to(trainer.strategy.root_device)
        self.setup("predict")
        return plan(self, data, trainer, self._costs)

    def _costs(self, requests: Sequence[UpscaleRequest]) -> Costs:
        assert self.checkpoints is not None
        tasks = [(request.caption, self.frames(request)[0]) for request in requests]
        # Weights are swapped in and out of the modules, which inference tensors do not allow.
        with torch.inference_mode(False), torch.no_grad():
            return costs(self.checkpoints, self.method(), self.device, tasks)

    # -- pictures ----------------------------------------------------------------------------------

    def describe(self, request: UpscaleRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text of a request's picture; the text holds all that decides its pixels."""
        method = self._method_of(request)
        frames: list[Frame] = []
        with suppress(UserError):  # told when the picture is read
            frames = self.frames(request)[0]
        settings: dict[str, object] = {
            **method.described(frames[-1].padded if frames else None),
            "Seed": request.seed,
            "Sample": f"{request.sample + 1} of {request.samples}"
            if self.sampling.reference
            else request.sample + 1,
            **(request.paper.described() if request.paper else {"Upscale": f"{self.sizing.upscale:g}"}),
            "Min size": self.sizing.min_size,
            "Model": model_name(self.sdxl),
            "SUPIR": model_name(self.supir),
            **({} if self.vae is None else {"VAE": model_name(self.vae)}),
            **self._hashes,
        }
        if request.tile_captions:
            settings["Tile captions"] = " | ".join(request.tile_captions)
        if len(frames) > 1:
            settings["Passes"] = len(frames)
        if request.bits != "auto":
            settings["Bits"] = request.bits
        if request.profile is not None:
            settings["Profile"] = profile_name(request.profile)
        if request.detail is not None:
            settings["Detail"] = request.detail.described(self.sizing.min_size)
        settings["Input hash"] = request.content
        separator = "" if self.sampling.reference else ", "
        prompt = separator.join(text for text in (request.caption, self.prompt) if text)
        return request.name, {"parameters": infotext(prompt, self.negative_prompt, settings)}

    def describe_beside(self, request: UpscaleRequest) -> tuple[str, dict[str, str]] | None:
        """Likewise of what the first stage made, beside it; None where that is not written."""
        if not self.stage1 or request.detail is not None:
            return None
        name, text = self.describe(request)
        return f"{name}_stage1", {"parameters": f"{text['parameters']}, Stage: 1"}

    def predict_step(self, batch: list[UpscaleRequest], batch_idx: int = 0) -> list[Picture]:
        """Upscale a batch of requests; those that fail are reported at the end."""
        # Weights are swapped in and out of the modules, which inference tensors do not allow.
        with torch.inference_mode(False), torch.no_grad():
            groups: dict[tuple[object, ...], list[PrintTask]] = {}
            for request in batch:
                try:
                    task = self._read(request)
                except UserError as error:
                    self._skip(request, str(error))
                    continue
                # The reference's noise comes from one stream for each image.
                key = (
                    *(frame.padded for frame in task.frames),
                    request.changes,
                    request.path if self.sampling.reference else None,
                )
                groups.setdefault(key, []).append(task)
            return [picture for group in groups.values() for picture in self._upscale(group)]

    def _read(self, request: UpscaleRequest) -> PrintTask:
        if self._sources is None or self._sources[0] != request.path:
            try:
                self._sources = (request.path, read_source(request.path))
            except UndecodableError as error:
                raise UserError(str(error)) from error
        source = self._sources[1]
        request.size = source.image.size
        frames, sheet = self.frames(request)
        count = self.method().window_count(*frames[-1].padded)
        if request.tile_captions and len(request.tile_captions) != count:
            raise UserError(
                f"has {len(request.tile_captions)} tile captions, but is sampled in {count} windows; give as "
                "many lines, or set model.tile_size and model.tile_overlap accordingly"
            )
        return PrintTask(request, source, frames, sheet)

    def frames(self, request: UpscaleRequest) -> tuple[list[Frame], Sheet | None]:
        """The passes over a request's picture, and its paper.

        Raises:
            UserError: The picture cannot be read, or would be too large.
        """
        if request.size is None:
            raise UserError(f"{request.path} cannot be used as a picture")
        sheet = request.paper.sheet(*request.size) if request.paper else None
        box, output = (sheet.box, sheet.picture) if sheet else (None, None)
        if request.detail is None:
            return self.sizing.frames(request.size, box, output), sheet
        whole = self.sizing.frames(request.size, box, output)[-1].output
        return self.sizing.frames(
            request.size, box, output, request.detail.region(whole, self.sizing.min_size)
        ), None

    def route(self, request: UpscaleRequest) -> Route:
        """The passes over a request's picture and its paper, for a plan.

        Raises:
            UserError: The picture cannot be read, or would be too large.
        """
        frames, sheet = self.frames(request)
        box, last = frames[0].source, frames[-1]
        why = "no step above 4 times, which SUPIR was trained for" if len(frames) > 1 else ""
        return Route(tuple(frame.work for frame in frames), last.output, box, sheet, why)

    def _method_of(self, request: UpscaleRequest) -> Method:
        """How a request's picture is restored, with what it has otherwise."""
        method = self.method()
        changes: dict[str, Any] = dict(request.changes)
        return replace(method, sampling=replace(method.sampling, **changes))

    def _upscale(self, group: list[PrintTask]) -> list[Picture]:
        """The pictures of a group that goes through the network together, as far as memory goes."""
        with during("loading SUPIR's text encoders", lambda _: Remedy(f"try {self._less()}")):
            self._ready()
        return [picture for picture in self._batch.map(group, self._some) if picture is not None]

    def _some(self, part: Sequence[PrintTask]) -> list[Picture | None]:
        """The pictures of a part; one that does not fit by itself is skipped."""
        try:
            return self._restored(part)
        except Exception as error:
            if len(part) > 1 or (full := exhausted(error)) is None:
                raise
            free = "" if full.free is None else f" ({byte_size(full.free)} were free)"
            self._skip(part[0].request, f"does not fit into the device's memory; try {self._less()}{free}")
            forget(error)
        give_back()
        return [None]

    def _restored(self, part: Sequence[PrintTask]) -> list[Picture | None]:
        sampling = self._method_of(part[0].request).sampling
        first: list[Tensor] = []
        wanted = self.describe_beside(part[0].request) is not None
        name = ", ".join(task.request.name for task in part)
        with self._bar(name, sampling.steps * len(part[0].frames)) as bar:
            made = restored(self._ready(), part, sampling, bar.update, first.extend if wanted else None)
        pictures = [self._finish(task, pixels) for task, pixels in zip(part, made, strict=True)]
        for task, picture, stage in zip(part, pictures, first, strict=False):  # none unless they are wanted
            picture.beside = self._stage_one(task, stage)
        return [*pictures]

    def _stage_one(self, task: PrintTask, pixels: Tensor) -> Picture | None:
        """What the first stage of the last pass made, of the size of the print's picture."""
        described = self.describe_beside(task.request)
        if described is None:
            return None
        image = to_image(to_pixels(pixels, task.frames[-1]))
        return Picture(task.request, described[0], image, described[1], task.source.icc_profile)

    def _less(self) -> str:
        """The next thing that takes less memory."""
        level = self._restorer.placement.level if self._restorer is not None else None
        if (lighter := smaller(level, self.device)) is not None:
            return f"model.memory {lighter}"
        size = self.windows.size
        return "model.tile_size 1024" if not size else f"a model.tile_size below {size}"

    def _ready(self) -> Restorer:
        """The restorer, with all prompts of the run encoded, so that the text encoders can go."""
        if self._restorer is None:
            assert self.checkpoints is not None
            self._restorer = Restorer(self.checkpoints, self.method(), self.device)
            self._restorer.prompts.encode(self._all_captions())
        return self._restorer

    def _all_captions(self) -> Iterable[str]:
        data = getattr(self.trainer, "datamodule", None) if self._trainer is not None else None
        requests: list[UpscaleRequest] = getattr(data, "requests", [])
        return [caption for request in requests for caption in (*request.captions, request.caption)]

    def _skip(self, request: UpscaleRequest, reason: str) -> None:
        self.failures.add(request.path, reason, tell=request.sample == 0)

    def _bar(self, name: str, steps: int) -> Any:
        shown = self._trainer is not None and self.trainer.progress_bar_callback is not None
        hidden = not shown or not self.trainer.is_global_zero
        return tqdm(total=steps, desc=name, unit="step", leave=False, position=1, disable=hidden)

    def _finish(self, task: PrintTask, pixels: Tensor) -> Picture:
        described = self.describe(task.request)
        frame = task.frames[-1]
        return finished(
            task.request, task.source, pixels, described, task.sheet, frame.source, frame.reference
        )

    def on_predict_end(self) -> None:
        """Let the weights go and report what failed.

        Raises:
            UserError: Pictures could not be made; the message lists them.
        """
        self._restorer = None
        self.failures.report(self.trainer)
