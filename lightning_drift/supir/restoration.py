"""From a degraded picture to a restored one: first stage, sampling and colour fix."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_drift.common.errors import UserError, notice
from lightning_drift.supir import colour
from lightning_drift.supir.memory.levels import STRIP_TILE, Footprint, Level, choose, free_bytes
from lightning_drift.supir.memory.offload import Stream, lent
from lightning_drift.supir.network.autoencoder import FirstStage
from lightning_drift.supir.network.conditioning import token_ids
from lightning_drift.supir.network.denoiser import Conditioning, Denoiser
from lightning_drift.supir.network.unet import SupirNetwork
from lightning_drift.supir.network.weights import (
    Checkpoints,
    empty_first_stage,
    empty_network,
    empty_text_encoders,
)
from lightning_drift.supir.sampling.noise import Noise
from lightning_drift.supir.sampling.samplers import sample
from lightning_drift.supir.sampling.tiling import TiledDenoise
from lightning_drift.supir.settings import Method


@dataclass(frozen=True)
class StageOne:
    """What the first stage makes of a picture.

    Attributes:
        latent: Latent of the degraded picture [1, 4, h, w], the control input.
        picture: It decoded [1, 3, H, W]: the "stage-1 image", reference for colours.
        center: That encoded again [1, 4, h, w], for restoration; None where it is not needed.
    """

    latent: Tensor
    picture: Tensor
    center: Tensor | None


class Restorer:
    """Restores pictures with the weights of two checkpoints.

    Parts are loaded when first needed, in an order that lets each go before the next where memory is scarce.

    Args:
        checkpoints: SUPIR's own weights and the SDXL base.
        method: How.
        device: Where to compute.
    """

    def __init__(self, checkpoints: Checkpoints, method: Method, device: torch.device) -> None:
        self.checkpoints, self.method, self.device = checkpoints, method, device
        self.level: Level | None = None
        self._free = free_bytes(device)
        self._lends = device.type != "cpu"  # what is on the CPU already need not be moved
        self._pixels = 0
        self._spare = 0  # bytes of streamed weights that may stay on the device
        self._spill = False  # whether whole feature maps of the autoencoder must stay on the host
        self._footprint: Footprint | None = None
        self._prompts: dict[str, Conditioning] = {}
        self._network: SupirNetwork | None = None
        self._first_stage: FirstStage | None = None
        self._stage_one: tuple[object, StageOne] | None = None

    # -- prompts -----------------------------------------------------------------------------------

    def encode_prompts(self, captions: Iterable[str]) -> None:
        """Encode the negative prompt and each caption's full prompt once, and let the text encoders go."""
        method = self.method
        tokenizer = self.checkpoints.sdxl.tokenizer
        wanted = {f"+{caption}": (caption, method.prompt) for caption in captions}
        wanted["-"] = ("", method.negative_prompt)
        wanted = {key: parts for key, parts in wanted.items() if key not in self._prompts}
        if not wanted:
            return
        encoders = self.checkpoints.text_encoders(method.ae_dtype if method.reference else method.diff_dtype)
        encoders.to(self.device)
        for key, (caption, prompt) in wanted.items():
            ids, cut = token_ids(tokenizer, caption, prompt, method.reference)
            if cut:
                length = tokenizer.model_max_length
                notice(f"a prompt is longer than {length} tokens and was cut: {caption or prompt!r}")
            self._prompts[key] = encoders(ids, method.size)

    def _conditioning(self, captions: Sequence[Sequence[str]]) -> list[Conditioning]:
        """For each window (or one for all) the conditionings of the pictures, one a row."""
        self.encode_prompts(caption for row in captions for caption in row)
        count = max(len(row) for row in captions)
        rows = [list(row) * count if len(row) == 1 else list(row) for row in captions]
        made = []
        for window in range(count):
            conds = [self._prompts[f"+{row[window]}"] for row in rows]
            made.append(
                Conditioning(torch.cat([c.context for c in conds]), torch.cat([c.vector for c in conds]))
            )
        return [Conditioning(c.context.to(self.device), c.vector.to(self.device)) for c in made]

    # -- memory ------------------------------------------------------------------------------------

    def footprint(self, height: int, width: int, samples: int = 1) -> Footprint:
        """Bytes of the weights and of pictures of a size as processed."""
        method, configs = self.method, self.checkpoints.sdxl.configs
        if self._footprint is None:
            parts = (
                (empty_network(configs["unet"]), method.diff_dtype),
                (empty_first_stage(configs["vae"]), method.ae_dtype),
                (empty_text_encoders(self.checkpoints.sdxl), method.diff_dtype),
            )
            sizes = [sum(p.numel() for p in part.parameters()) * dtype.itemsize for part, dtype in parts]
            self._footprint = Footprint(sizes[0], sizes[1], sizes[2], pixels=0)
        weights = self._footprint
        window = height * width
        if method.tile:
            window = min(height, method.cell * method.tile) * min(width, method.cell * method.tile)
            samples *= min(method.tile_batch, method.window_count(width, height))
        return Footprint(
            network=weights.network,
            first_stage=weights.first_stage,
            text=weights.text,
            pixels=height * width,
            samples=samples,
            window=window,
            network_bytes=method.diff_dtype.itemsize,
            first_stage_bytes=method.ae_dtype.itemsize,
        )

    def _plan(self, height: int, width: int, samples: int) -> None:
        """Choose the measures for the largest picture so far, and say so."""
        if self.method.memory != "auto" and self.method.memory != "stream":
            self.level = self.method.memory
            return
        footprint = self.footprint(height, width, samples)
        self._spare = self._free - footprint.sampling("stream")
        self._spill = self._free < footprint.first_stage + footprint.coding("stream")
        if self.method.memory == "stream":
            self.level = "stream"
            return
        if height * width * samples <= self._pixels:
            return
        self._pixels = height * width * samples
        level, reason = choose(footprint, self._free, self.device)
        if level != self.level:
            notice(f"memory: {level}, since {reason}")
        self.level = level

    @contextmanager
    def _working(self, module: nn.Module) -> Iterator[None]:
        """Have a part's weights on the device while it works; at level `full` they stay there."""
        if self.level == "full" or not self._lends:
            module.to(self.device)
            yield
            return
        if next(module.parameters()).device.type != "cpu":
            module.to("cpu")  # an earlier, smaller picture was restored at level full
        if self.level == "stream" and isinstance(module, SupirNetwork):
            with Stream(module, self.device, max(0, self._spare)).running():
                yield
            return
        with lent(module, self.device):
            yield

    # -- parts -------------------------------------------------------------------------------------

    def first_stage(self) -> FirstStage:
        """The autoencoder, loaded at the first call, running as the method and the memory level ask."""
        if self._first_stage is None:
            self._first_stage = self.checkpoints.first_stage(self.method.ae_dtype)
        stage = self._first_stage
        if self.method.vae_tiles is not None:
            stage.run_in_reference_tiles(*self.method.vae_tiles)
        elif self.level in ("full", "offload"):
            stage.run_whole()
        else:
            spill = self.level == "stream" and self._lends and self._spill
            stage.run_in_strips(STRIP_TILE, torch.device("cpu") if spill else None)
        return stage

    def network(self) -> SupirNetwork:
        """UNet, control encoder and adapters, loaded at the first call."""
        if self._network is None:
            self._network = self.checkpoints.network(self.method.diff_dtype)
            if self.level == "8bit":
                # Here, since bitsandbytes takes long to import and has much to say.
                from lightning_drift.supir.memory.eight_bit import quantise

                error, worst, where = quantise(self._network, self.device)
                notice(
                    f"8-bit weights: relative error {error:.2%}, at worst {worst:.2%} in {where}; the "
                    "picture differs from that of full weights"
                )
            if self.method.compile:
                if self.level == "stream":
                    raise UserError("model.compile does not go with memory: stream; switch one of them off")
                self._network.compile()
        return self._network

    # -- the stages --------------------------------------------------------------------------------

    def stage_one(self, image: Tensor, noise: Noise, key: object = None) -> StageOne:
        """Run the first stage on one picture.

        Args:
            image: [1, 3, H, W] in [-1, 1].
            noise: Its noise.
            key: What the picture is; the last result is kept for further samples of the same.
        """
        restores, reference = self.method.sampling.restores, self.method.reference
        if key is not None and self._stage_one is not None and self._stage_one[0] == key:
            made = self._stage_one[1]
            if reference:
                noise.posterior(
                    made.latent
                )  # keeps the stream in step; the kept centre has this sample's own
            return made
        if self.level is None:
            self._plan(image.shape[-2], image.shape[-1], 1)
        stage = self.first_stage()
        with self._working(stage):
            latent = stage.encode_degraded(image.to(self.device))
            picture = stage.decode(latent)
            posterior = noise.posterior(latent) if reference else None
            center = stage.encode(picture, posterior) if restores else None
        if not reference:
            latent, center = latent.float(), None if center is None else center.float()
        made = StageOne(latent, picture, center)
        if not (reference and restores):
            self._stage_one = (key, made)
        return made

    def restore(
        self,
        images: Tensor,
        captions: Sequence[Sequence[str]],
        noises: Sequence[Noise],
        keys: Sequence[object] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """Restore pictures of one size.

        Args:
            images: [N, 3, H, W] in [-1, 1], H and W multiples of 32.
            captions: For each picture one caption, or one for each window.
            noises: The noise of each picture.
            keys: What each picture is, so that samples of the same share the first stage.
            on_step: Called after every sampler step.

        Returns:
            [N, 3, H, W] float32, not clamped, on the device.
        """
        height, width = images.shape[-2:]
        positive = self._conditioning(captions)
        negative = self._prompts["-"]
        negative = Conditioning(negative.context.to(self.device), negative.vector.to(self.device))
        self._plan(height, width, len(images))
        stages = [
            self.stage_one(images[i : i + 1], noise, None if keys is None else keys[i])
            for i, noise in enumerate(noises)
        ]
        latent = torch.cat([stage.latent for stage in stages])
        centers = [stage.center for stage in stages if stage.center is not None]
        final = self._sample(
            latent, torch.cat(centers) if centers else None, positive, negative, noises, on_step
        )
        stage = self.first_stage()
        with self._working(stage):
            out = torch.cat([stage.decode(row) for row in torch.split(final, 1)])
        style = torch.cat([stage.picture for stage in stages])
        if self.method.color_reference == "input":
            style = images.to(self.device)
        if self.method.color_fix == "Wavelet":
            return colour.wavelet(out, style)
        return colour.adain(out, style) if self.method.color_fix == "AdaIn" else out

    def _sample(
        self,
        latent: Tensor,
        center: Tensor | None,
        positive: list[Conditioning],
        negative: Conditioning,
        noises: Sequence[Noise],
        on_step: Callable[[], None] | None,
    ) -> Tensor:
        method = self.method
        network = self.network()
        denoiser = Denoiser(network, self.level not in ("full", "offload"), method.reference)
        tile = method.tile or max(latent.shape[-2:])
        denoise = TiledDenoise(
            denoiser,
            latent,
            positive[0] if len(positive) == 1 else positive,
            negative,
            tile,
            method.stride,
            method.tile_batch,
            method.reference,
        )
        row = latent[:1]

        def draw(i: int) -> Tensor:
            # In the reference the first step's noise has the latent's dtype, later steps' that of the float32
            # state.
            like = row if i == 0 else row.float()
            return torch.cat([noise.step(i, like) for noise in noises])

        start = torch.cat([noise.start(row) for noise in noises])
        with self._working(network):
            return sample(
                method.sampling,
                denoise,
                start,
                draw,
                center,
                on_step=lambda *_: on_step() if on_step else None,
                sigma_dtype=latent.dtype if method.reference else torch.float32,
            )
