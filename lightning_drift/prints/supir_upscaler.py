"""The predict stage that upscales pictures: SUPIR on an SDXL base."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from tqdm import tqdm

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.halving import Batch
from lightning_drift.common.model_name import model_name
from lightning_drift.common.out_of_memory import Remedy, during, exhausted, forget, give_back
from lightning_drift.common.prompt_lists import check_text
from lightning_drift.common.text import byte_size
from lightning_drift.images.decode import Source, UndecodableError, read_source
from lightning_drift.images.infotext import infotext
from lightning_drift.images.png import Picture
from lightning_drift.prints.failures import Failures
from lightning_drift.prints.images import UpscaleRequest
from lightning_drift.prints.sizes import Frame, Sizing, to_image, to_tensor
from lightning_drift.supir.memory.levels import Memory, smaller
from lightning_drift.supir.network.find import find_lora, find_sdxl, find_supir, find_vae
from lightning_drift.supir.network.lora import LoraFile, split_weight
from lightning_drift.supir.network.weights import Checkpoints, open_checkpoints
from lightning_drift.supir.options import (
    Dtype,
    check_autoencoder_tiles,
    check_ranges,
    check_windows,
    precision,
)
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.noise import AddressedNoise, Noise, ReferenceNoise
from lightning_drift.supir.sampling.samplers import EdmSampling
from lightning_drift.supir.settings import LATENT, ColorFix, Method

LICENCE = (
    "SUPIR's weights are licensed by their owner, SupPixel, for non-commercial use only; none come with this "
    "program"
)
PROMPT = "sharp textures, fine grain, rich color depth"
NEGATIVE_PROMPT = "blurry, low quality, jpeg artifacts"


class SupirUpscaler(LightningModule):
    """Upscales pictures with SUPIR v0 (Yu et al. 2024, arXiv:2401.13627) on an SDXL base model.

    The defaults enlarge 512x512 to 2048x2048. Every result is exactly `upscale`
    times its input; transparency and an RGB profile are kept. SUPIR's weights are licensed for non-commercial
    use.

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
        upscale: Scale of the output, 0.25 to 16.
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
            and more operations; 0 samples the picture whole.
        tile_overlap: Smallest overlap of neighbouring windows in pixels, a multiple of 8.
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
        tile_size: int = 0,
        tile_overlap: int = 512,
        tile_batch: int = 1,
        diff_dtype: Dtype = "auto",
        ae_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        memory: Memory = "auto",
        compile: bool = False,
        size_condition: int = 1024,
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
        check_windows(tile_size, tile_overlap)
        check_autoencoder_tiles(encoder_tile_size, decoder_tile_size, reference_numerics)
        if compile and memory == "stream":
            raise UserError("does not go with model.memory: stream; switch one of them off", "model.compile")
        self.supir, self.sdxl, self.vae = supir, sdxl, vae
        names = [lora] if isinstance(lora, str) else lora or []
        self.loras = [split_weight(name, "model.lora") for name in names]
        self.prompt, self.negative_prompt = prompt, negative_prompt
        self.sizing = Sizing(upscale, min_size, reference_numerics)
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
        self.tile_size, self.tile_overlap = tile_size, tile_overlap
        self.tile_batch = tile_batch
        self.diff_dtype, self.ae_dtype = diff_dtype, ae_dtype
        self.memory: Memory = memory
        self.compile_network = compile
        self.size_condition = size_condition
        self.vae_tiles = (encoder_tile_size, decoder_tile_size) if encoder_tile_size else None
        self.checkpoints: Checkpoints | None = None
        self.failures = Failures()
        self._restorer: Restorer | None = None
        self._batch = Batch(option="data.batch_size")
        self._hashes: dict[str, str] = {}
        self._sources: tuple[Path, Source] | None = None

    # -- before the first picture ------------------------------------------------------------------

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
            tile=self.tile_size // self.cell,
            stride=(self.tile_size - self.tile_overlap) // self.cell,
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

    # -- pictures ----------------------------------------------------------------------------------

    def describe(self, request: UpscaleRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text of a request's picture; the text holds all that decides its pixels."""
        settings: dict[str, object] = {
            **self.method().described(),
            "Seed": request.seed,
            "Sample": f"{request.sample + 1} of {request.samples}"
            if self.sampling.reference
            else request.sample + 1,
            "Upscale": f"{self.sizing.upscale:g}",
            "Min size": self.sizing.min_size,
            "Model": model_name(self.sdxl),
            "SUPIR": model_name(self.supir),
            **({} if self.vae is None else {"VAE": model_name(self.vae)}),
            **self._hashes,
        }
        if request.tile_captions:
            settings["Tile captions"] = " | ".join(request.tile_captions)
        settings["Input hash"] = request.content
        separator = "" if self.sampling.reference else ", "
        prompt = separator.join(text for text in (request.caption, self.prompt) if text)
        return request.name, {"parameters": infotext(prompt, self.negative_prompt, settings)}

    def predict_step(self, batch: list[UpscaleRequest], batch_idx: int = 0) -> list[Picture]:
        """Upscale a batch of requests; those that fail are reported at the end."""
        # Weights are swapped in and out of the modules, which inference tensors do not allow.
        with torch.inference_mode(False), torch.no_grad():
            groups: dict[tuple[object, ...], list[tuple[UpscaleRequest, Source, Frame]]] = {}
            for request in batch:
                try:
                    source, sizes = self._read(request)
                except UserError as error:
                    self._skip(request, str(error))
                    continue
                # The reference's noise comes from one stream for each image.
                key = (sizes.padded, request.path if self.sampling.reference else None)
                groups.setdefault(key, []).append((request, source, sizes))
            return [picture for group in groups.values() for picture in self._upscale(group)]

    def _read(self, request: UpscaleRequest) -> tuple[Source, Frame]:
        if self._sources is None or self._sources[0] != request.path:
            try:
                self._sources = (request.path, read_source(request.path))
            except UndecodableError as error:
                raise UserError(str(error)) from error
        source = self._sources[1]
        sizes = self.sizing.frame(*source.image.size)
        count = self.method().window_count(*sizes.padded)
        if request.tile_captions and len(request.tile_captions) != count:
            raise UserError(
                f"has {len(request.tile_captions)} tile captions, but is sampled in {count} windows; give as "
                "many lines, or set model.tile_size and model.tile_overlap accordingly"
            )
        return source, sizes

    def _upscale(self, group: list[tuple[UpscaleRequest, Source, Frame]]) -> list[Picture]:
        """The pictures of a group that goes through the network together, as far as memory goes."""
        with during("loading SUPIR's text encoders", lambda _: Remedy(f"try {self._less()}")):
            self._ready()
        return [picture for picture in self._batch.map(group, self._some) if picture is not None]

    def _some(self, part: Sequence[tuple[UpscaleRequest, Source, Frame]]) -> list[Picture | None]:
        """The pictures of a part; one that does not fit by itself is skipped."""
        try:
            return self._restored(part)
        except Exception as error:
            if len(part) > 1 or (full := exhausted(error)) is None:
                raise
            free = "" if full.free is None else f" ({byte_size(full.free)} were free)"
            self._skip(part[0][0], f"does not fit into the device's memory; try {self._less()}{free}")
            forget(error)
        give_back()
        return [None]

    def _restored(self, part: Sequence[tuple[UpscaleRequest, Source, Frame]]) -> list[Picture | None]:
        restorer = self._ready()
        with self._bar(", ".join(request.name for request, _, _ in part)) as bar:
            results = restorer.restore(
                torch.stack([to_tensor(source.image, sizes) for _, source, sizes in part]),
                [request.captions for request, _, _ in part],
                [self._noise(request) for request, _, _ in part],
                [(request.path, request.content) for request, _, _ in part],
                on_step=bar.update,
            )
        return [
            self._finish(request, source, to_image(pixels, sizes))
            for (request, source, sizes), pixels in zip(part, results, strict=True)
        ]

    def _less(self) -> str:
        """The next thing that takes less memory."""
        level = self._restorer.placement.level if self._restorer is not None else None
        if (lighter := smaller(level, self.device)) is not None:
            return f"model.memory {lighter}"
        return f"a model.tile_size below {self.tile_size}" if self.tile_size else "model.tile_size 1024"

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
        return [caption for request in requests for caption in request.captions]

    def _skip(self, request: UpscaleRequest, reason: str) -> None:
        self.failures.add(request.path, reason, tell=request.sample == 0)

    def _noise(self, request: UpscaleRequest) -> Noise:
        if self.sampling.reference:
            return ReferenceNoise(request.seed, request.sample, request.samples, self.device)
        return AddressedNoise(request.seed, request.sample, self.device)

    def _bar(self, name: str) -> Any:
        shown = self._trainer is not None and self.trainer.progress_bar_callback is not None
        hidden = not shown or not self.trainer.is_global_zero
        return tqdm(
            total=self.sampling.steps, desc=name, unit="step", leave=False, position=1, disable=hidden
        )

    def _finish(self, request: UpscaleRequest, source: Source, image: Image.Image) -> Picture:
        if source.alpha is not None:
            image.putalpha(source.alpha.resize(image.size, Image.Resampling.BICUBIC))
        name, text = self.describe(request)
        return Picture(request, name, image, text, source.icc_profile)

    def on_predict_end(self) -> None:
        """Let the weights go and report what failed.

        Raises:
            UserError: Pictures could not be made; the message lists them.
        """
        self._restorer = None
        self.failures.report(self.trainer)
