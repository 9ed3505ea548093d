"""The first stage: SDXL's autoencoder, and a second encoder that was trained to read degraded pictures.

Pictures are [N, 3, H, W] in [-1, 1]; latents [N, 4, H/8, W/8], scaled by 0.13025 as the UNet expects them.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from lightning_drift.supir.memory.reference_tiles import decode_in_tiles, encode_in_tiles
from lightning_drift.supir.memory.strips import StripRunner

SCALING = 0.13025


class FirstStage(nn.Module):
    """Encoders, decoder and the pointwise convolutions they share (SUPIR, arXiv:2401.13627, section 3.1).

    Args:
        vae: SDXL's autoencoder.
        denoise_encoder: A second encoder of the same architecture; its output goes through the same
            `quant_conv`.
    """

    def __init__(self, vae: AutoencoderKL, denoise_encoder: nn.Module) -> None:
        super().__init__()
        self.vae = vae
        self.denoise_encoder = denoise_encoder
        self.strips: StripRunner | None = None
        self.reference_tiles: tuple[int, int] | None = None

    def run_in_strips(self, tile: int, store: torch.device | None = None) -> None:
        """Bound the memory: run every layer on squares of `tile` pixels, with exact global statistics.

        Args:
            tile: Edge of the squares, pixels of each layer's resolution.
            store: Where whole feature maps are kept, for example the CPU; None keeps them where they are
                computed.
        """
        self.strips, self.reference_tiles = StripRunner(tile, store), None

    def run_in_reference_tiles(self, encoder_tile: int, decoder_tile: int) -> None:
        """Tile as the reference does, which changes the picture.

        Args:
            encoder_tile: Tile edge in pixels (the reference's is 512).
            decoder_tile: Tile edge in latent units (the reference's is 64).
        """
        self.strips, self.reference_tiles = None, (encoder_tile, decoder_tile)

    def run_whole(self) -> None:
        """Run every layer on the whole picture."""
        self.strips = self.reference_tiles = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return self.vae.quant_conv.weight.dtype  # type: ignore[no-any-return]

    def moments(self, image: Tensor, denoise: bool) -> Tensor:
        """Mean and log variance of the posterior [N, 8, h, w], before scaling."""
        encoder = self.denoise_encoder if denoise else self.vae.encoder
        image = image.to(self.dtype)
        if self.strips:
            hidden = self.strips.encode(encoder, image)
        elif self.reference_tiles:
            hidden = encode_in_tiles(encoder, image, self.reference_tiles[0]).to(self.dtype)
        else:
            hidden = encoder(image)
        moments: Tensor = self.vae.quant_conv(hidden)
        return moments

    def encode_degraded(self, image: Tensor) -> Tensor:
        """Latent of a degraded picture by the denoise encoder, the mode of its posterior."""
        return SCALING * self.moments(image, denoise=True).chunk(2, dim=1)[0]

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latent of a clean picture by SDXL's encoder.

        Args:
            image: Picture.
            noise: Unit normal of the latent's shape for a sample of the posterior (reference behaviour); None
                takes the mode.
        """
        mean, log_variance = self.moments(image, denoise=False).chunk(2, dim=1)
        if noise is None:
            return SCALING * mean
        return SCALING * (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise.to(mean))

    def decode(self, latent: Tensor) -> Tensor:
        """Picture of a latent, float32, not clamped."""
        hidden = self.vae.post_quant_conv((latent * (1 / SCALING)).to(self.dtype))
        if self.strips:
            return self.strips.decode(self.vae.decoder, hidden).float()
        if self.reference_tiles:
            return decode_in_tiles(self.vae.decoder, hidden, self.reference_tiles[1])
        picture: Tensor = self.vae.decoder(hidden)
        return picture.float()
