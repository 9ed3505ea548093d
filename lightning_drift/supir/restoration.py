"""From a degraded picture to a restored one: first stage, sampling and colour fix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_drift.common.errors import UserError, notice
from lightning_drift.supir import colour, lab_transfer
from lightning_drift.supir.network.autoencoder import FirstStage
from lightning_drift.supir.network.denoiser import Conditioning, Denoiser
from lightning_drift.supir.network.unet import SupirNetwork
from lightning_drift.supir.network.weights import Checkpoints
from lightning_drift.supir.placement import Placement
from lightning_drift.supir.prompt_conditionings import PromptConditionings
from lightning_drift.supir.sampling.noise import Noise
from lightning_drift.supir.sampling.samplers import EdmSampling, sample
from lightning_drift.supir.sampling.tiling import TiledDenoise
from lightning_drift.supir.settings import ColorFix, Method

COLOUR_FIXES: Mapping[ColorFix, Callable[[Tensor, Tensor], Tensor]] = {
    "Wavelet": colour.wavelet,
    "AdaIn": colour.adain,
    "Lab": lab_transfer.transfer,
    "None": lambda content, _: content,
}
"""Each takes the result and the reference picture."""


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
        self.prompts = PromptConditionings(checkpoints, method, device)
        self.placement = Placement(checkpoints, method, device)
        self._network: SupirNetwork | None = None
        self._first_stage: FirstStage | None = None
        self._stage_one: tuple[object, StageOne] | None = None

    # -- parts -------------------------------------------------------------------------------------

    def first_stage(self) -> FirstStage:
        """The autoencoder, loaded at the first call, running as the method and the memory level ask."""
        if self._first_stage is None:
            self._first_stage = self.checkpoints.first_stage(self.method.ae_dtype)
        self.placement.arrange(self._first_stage)
        return self._first_stage

    def network(self) -> SupirNetwork:
        """UNet, control encoder and adapters, loaded at the first call."""
        if self._network is None:
            self._network = self.checkpoints.network(self.method.diff_dtype)
            if self.placement.level == "8bit":
                # Here, since bitsandbytes takes long to import and has much to say.
                from lightning_drift.supir.memory.eight_bit import quantise

                error, worst, where = quantise(self._network, self.device)
                notice(
                    f"8-bit weights: relative error {error:.2%}, at worst {worst:.2%} in {where}; the "
                    "picture differs from that of full weights"
                )
            if self.method.compile:
                if self.placement.level == "stream":
                    raise UserError(
                        "does not go with model.memory: stream; switch one of them off", "model.compile"
                    )
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
            result = self._stage_one[1]
            if reference:
                noise.posterior(result.latent)  # drawn for nothing, so that the stream stays in step
            return result
        if self.placement.level is None:
            self.placement.plan(image.shape[-2], image.shape[-1], 1)
        stage = self.first_stage()
        with self.placement.working(stage):
            latent = stage.encode_degraded(image.to(self.device))
            picture = stage.decode(latent)
            posterior = noise.posterior(latent) if reference else None
            center = stage.encode(picture, posterior) if restores else None
        if not reference:
            latent, center = latent.float(), None if center is None else center.float()
        result = StageOne(latent, picture, center)
        if not (reference and restores):
            self._stage_one = (key, result)
        return result

    def restore(
        self,
        images: Tensor,
        captions: Sequence[Sequence[str]],
        noises: Sequence[Noise],
        keys: Sequence[object] | None = None,
        on_step: Callable[[], None] | None = None,
        styles: Tensor | None = None,
        sampling: EdmSampling | None = None,
        on_stage_one: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Restore pictures of one size.

        Args:
            images: [N, 3, H, W] in [-1, 1], H and W multiples of 32.
            captions: For each picture one caption, or one for each window.
            noises: The noise of each picture.
            keys: What each picture is, so that samples of the same share the first stage.
            on_step: Called after every sampler step.
            styles: Where the colour fix takes colours from instead of `color_reference`, of the shape of
                `images`.
            sampling: Sampler, steps and scales, where they are not the method's.
            on_stage_one: Called with what the first stage made of the pictures [N, 3, H, W].

        Returns:
            [N, 3, H, W] float32, not clamped, on the device.
        """
        height, width = images.shape[-2:]
        positive, negative = self.prompts.positive(captions), self.prompts.negative
        self.placement.plan(height, width, len(images))
        stages = [
            self.stage_one(images[i : i + 1], noise, None if keys is None else keys[i])
            for i, noise in enumerate(noises)
        ]
        if on_stage_one is not None:
            on_stage_one(torch.cat([stage.picture for stage in stages]))
        latent = torch.cat([stage.latent for stage in stages])
        centers = [stage.center for stage in stages if stage.center is not None]
        final = self._sample(
            sampling or self.method.sampling,
            latent,
            torch.cat(centers) if centers else None,
            positive,
            negative,
            noises,
            on_step,
        )
        stage = self.first_stage()
        with self.placement.working(stage):
            out = torch.cat([stage.decode(row) for row in torch.split(final, 1)])
        if styles is not None or self.method.color_reference == "input":
            style = (images if styles is None else styles).to(self.device)
        else:
            style = torch.cat([stage.picture for stage in stages])
        return self.fixed(out, style)

    def fixed(self, out: Tensor, style: Tensor) -> Tensor:
        """A result [N, 3, H, W] with the coarse colours of a picture of its shape, by the method's fix."""
        return COLOUR_FIXES[self.method.color_fix](out, style)

    def _sample(
        self,
        sampling: EdmSampling,
        latent: Tensor,
        center: Tensor | None,
        positive: list[Conditioning],
        negative: Conditioning,
        noises: Sequence[Noise],
        on_step: Callable[[], None] | None,
    ) -> Tensor:
        method = self.method
        network = self.network()
        denoise = TiledDenoise(
            Denoiser(network, self.placement.sequential, method.reference),
            latent,
            positive[0] if len(positive) == 1 else positive,
            negative,
            method.tiling(*[side * method.cell for side in reversed(latent.shape[-2:])]),
        )
        row = latent[:1]

        def draw(i: int) -> Tensor:
            # In the reference the first step's noise has the latent's dtype, later steps' that of the float32
            # state.
            like = row if i == 0 else row.float()
            return torch.cat([noise.step(i, like) for noise in noises])

        start = torch.cat([noise.start(row) for noise in noises])
        with self.placement.working(network):
            return sample(
                sampling,
                denoise,
                start,
                draw,
                center,
                on_step=lambda *_: on_step() if on_step else None,
                sigma_dtype=latent.dtype if method.reference else torch.float32,
            )
