"""The control encoder: a trained copy of the SDXL encoder that also sees the degraded picture's latent."""

from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn


def embed(unet: UNet2DConditionModel, timestep: Tensor, vector: Tensor) -> Tensor:
    """Time and size embedding of one encoder: [N] timesteps and [N, 2816] vectors to [N, 1280]."""
    time = unet.time_proj(timestep).to(vector.dtype)
    embedding: Tensor = unet.time_embedding(time) + unet.add_embedding(vector)
    return embedding


def encode(
    unet: UNet2DConditionModel, hidden: Tensor, emb: Tensor, context: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Run the down blocks and the mid block of an SDXL UNet from the state after its first convolution.

    Returns:
        The nine skips in the order they are made, and the mid block's output.
    """
    skips = [hidden]
    for block in unet.down_blocks:
        cross: dict[str, Any] = (
            {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
        )
        hidden, outputs = block(hidden, emb, **cross)
        skips.extend(outputs)
    return skips, unet.mid_block(hidden, emb, encoder_hidden_states=context)


class ControlEncoder(nn.Module):
    """SDXL's encoder and mid block with one extra convolution, the hint, added once after the first layer.

    Reference behaviour: the published "trimmed ControlNet" keeps the full depth; it has no decoder and no
    zero convolutions on its outputs.

    Args:
        unet: A UNet of the base's configuration; its decoder is removed here.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        del unet.up_blocks, unet.conv_norm_out, unet.conv_out
        self.encoder = unet
        self.hint = nn.Conv2d(unet.config["in_channels"], unet.config["block_out_channels"][0], 3, padding=1)

    def forward(
        self, latent: Tensor, timestep: Tensor, sample: Tensor, context: Tensor, vector: Tensor
    ) -> list[Tensor]:
        """The ten control features in the order they are made; the decoder uses the last first.

        Args:
            latent: Latent of the degraded picture [N, 4, h, w].
            timestep: [N] integers, 0 to 999.
            sample: The scaled noisy latent that enters the UNet too [N, 4, h, w].
            context: Text states [N, 77, 2048].
            vector: Pooled text and sizes [N, 2816].
        """
        emb = embed(self.encoder, timestep, vector)
        hidden = self.encoder.conv_in(sample) + self.hint(latent)
        skips, mid = encode(self.encoder, hidden, emb, context)
        return [*skips, mid]
