"""SUPIR's network: a stock SDXL UNet whose decoder takes in the control features through the adapters."""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lightning_drift.supir.network.adapters import build_adapters
from lightning_drift.supir.network.control import ControlEncoder, embed, encode


class SupirNetwork(nn.Module):
    """Noise prediction (SUPIR, arXiv:2401.13627, section 3.1).

    The base UNet's encoder and mid block run unchanged. The control encoder's features enter the decoder:
    after the mid block, before each of the nine decoder layers in the place of the usual concatenation with
    the skip, and by cross-attention before the two upsamplings.

    Args:
        unet: The SDXL UNet.
        control: The control encoder.
    """

    def __init__(self, unet: UNet2DConditionModel, control: ControlEncoder) -> None:
        super().__init__()
        self.unet = unet
        self.control = control
        self.project_modules = build_adapters(
            tuple(unet.config["block_out_channels"]), unet.config["layers_per_block"]
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network's inputs and activations."""
        return self.unet.conv_in.bias.dtype  # type: ignore[no-any-return]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        vector: Tensor,
        latent: Tensor,
        control_scale: float = 1.0,
        control_rounding: torch.dtype | None = None,
    ) -> Tensor:
        """Predicted noise [N, 4, h, w]; h and w must be multiples of 4.

        Args:
            sample: Scaled noisy latent [N, 4, h, w].
            timestep: [N] integers, 0 to 999.
            context: Text states [N, 77, 2048].
            vector: Pooled text and sizes [N, 2816].
            latent: Latent of the degraded picture [N, 4, h, w].
            control_scale: Blend of the adapters, 0 to 1. At 0 the control encoder is not run, and the result
                is that of the SDXL UNet bit for bit.
            control_rounding: Reference behaviour: what the control encoder reads is rounded to this dtype.
        """
        features: list[Tensor] = []
        if control_scale != 0:
            inputs = [sample, context, vector]
            if control_rounding is not None:
                inputs = [part.to(control_rounding).to(part.dtype) for part in inputs]
            features = self.control(latent, timestep, *inputs)
        emb = embed(self.unet, timestep, vector)
        skips, hidden = encode(self.unet, self.unet.conv_in(sample), emb, context)
        return self._decode(hidden, skips, features, emb, context, control_scale)

    def _decode(
        self,
        hidden: Tensor,
        skips: list[Tensor],
        features: list[Tensor],
        emb: Tensor,
        context: Tensor,
        scale: float,
    ) -> Tensor:
        # Skips and features are popped, so that each is freed as soon as it is used.
        adapters = iter(reversed(self.project_modules))
        if features:
            hidden = next(adapters)(features.pop(), hidden, None, scale)
        for block in self.unet.up_blocks:
            attentions = getattr(block, "attentions", [None] * len(block.resnets))
            feature: Tensor | None = None
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                if features:
                    feature = features.pop()
                    hidden = next(adapters)(feature, skips.pop(), hidden, scale)
                else:
                    hidden = torch.cat([hidden, skips.pop()], dim=1)
                hidden = resnet(hidden, emb)
                if attention is not None:
                    hidden = attention(hidden, encoder_hidden_states=context, return_dict=False)[0]
            if block.upsamplers is not None:
                if feature is not None:
                    hidden = next(adapters)(feature, hidden, scale)
                hidden = block.upsamplers[0](hidden)
        out: Tensor = self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(hidden)))
        return out
