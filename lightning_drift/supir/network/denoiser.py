"""From the network's noise prediction to a guided estimate of the clean latent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lightning_drift.supir.network.schedule import sigma_table
from lightning_drift.supir.network.unet import SupirNetwork


@dataclass
class Conditioning:
    """What the networks read beside the picture.

    Args:
        context: Text states of both encoders [N, 77, 2048].
        vector: Pooled text and size embedding [N, 2816].
    """

    context: Tensor
    vector: Tensor

    def rows(self, count: int) -> "Conditioning":
        """The same with `count` rows: a single row is repeated."""
        if self.context.shape[0] == count:
            return self
        return Conditioning(self.context.expand(count, -1, -1), self.vector.expand(count, -1))

    def to(self, device: torch.device) -> "Conditioning":
        """The same on a device."""
        return Conditioning(self.context.to(device), self.vector.to(device))

    @classmethod
    def joined(cls, parts: Sequence["Conditioning"]) -> "Conditioning":
        """The rows of several, one after the other."""
        return cls(torch.cat([part.context for part in parts]), torch.cat([part.vector for part in parts]))

    def equals(self, other: "Conditioning") -> bool:
        """Whether both say the same, so that guidance between them changes nothing."""
        return torch.equal(self.context, other.context) and torch.equal(self.vector, other.vector)


class Denoise(Protocol):
    """What a sampler calls: the estimate of the clean latent at one noise level, [N, 4, h, w] float32."""

    def __call__(self, x: Tensor, sigma: Tensor, guidance: float, control_scale: float) -> Tensor:
        """`x` noisy latent, `sigma` 0-dimensional noise level, guidance scale, blend of the adapters."""
        ...


class Denoiser:
    """Noise prediction at a quantised noise level, with classifier-free guidance (arXiv:2207.12598).

    Args:
        network: The network; its inputs are cast to its dtype, the combination is float32.
        sequential: Evaluate the two halves of the guidance one after the other, for half the memory.
            GroupNorm and attention are per sample, so only rounding differs.
        reference: Reference behaviour: round what the control encoder reads to the latent's dtype, and
            evaluate both halves even at guidance scale 1 or with equal prompts.
    """

    def __init__(self, network: SupirNetwork, sequential: bool = False, reference: bool = False) -> None:
        self.network = network
        self.sequential = sequential
        self.reference = reference
        self.table = sigma_table()

    def predict(
        self, x: Tensor, sigma: Tensor, latent: Tensor, cond: Conditioning, control_scale: float
    ) -> Tensor:
        """Unguided estimate of the clean latent, float32: ``x - sigma * noise(x / sqrt(sigma^2 + 1))``.

        That is the preconditioning of Karras et al. 2022, arXiv:2206.00364, table 1, column VP.

        The network sees the nearest entry of the table (first on ties); above the table's end, where churn
        leads, it saturates while the sampler keeps the larger level (reference behaviour).
        """
        index = (sigma - self.table).abs().argmin()
        sigma = self.table[index]
        c_in = 1 / (sigma**2 + 1.0) ** 0.5
        dtype, cond = self.network.dtype, cond.rows(x.shape[0])
        noise = self.network(
            (x.float() * c_in).to(dtype),  # a 0-dimensional factor does not widen a bfloat16 state
            index.expand(x.shape[0]).to(x.device),
            cond.context.to(x.device, dtype),
            cond.vector.to(x.device, dtype),
            latent.to(dtype),
            control_scale,
            latent.dtype if self.reference else None,
        )
        denoised: Tensor = noise.float() * -sigma + x
        return denoised

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        latent: Tensor,
        positive: Conditioning,
        negative: Conditioning,
        guidance: float,
        control_scale: float,
    ) -> Tensor:
        """Guided estimate ``u + guidance * (c - u)``.

        Args:
            x: Noisy latent [N, 4, h, w].
            sigma: Noise level, 0-dimensional, on the CPU.
            latent: Latent of the degraded picture [N, 4, h, w].
            positive: Conditioning of the prompt, one row or N.
            negative: Conditioning of the negative prompt, one row or N.
            guidance: Guidance scale.
            control_scale: Blend of the adapters, 0 to 1.
        """
        if not self.reference and (guidance == 1 or positive.equals(negative)):
            return self.predict(x, sigma, latent, positive, control_scale)
        if self.sequential:
            uncond = self.predict(x, sigma, latent, negative, control_scale)
            cond = self.predict(x, sigma, latent, positive, control_scale)
        else:
            count = x.shape[0]
            positive, negative = positive.rows(count), negative.rows(count)
            both = Conditioning.joined([negative, positive])
            pair = self.predict(torch.cat([x, x]), sigma, torch.cat([latent, latent]), both, control_scale)
            uncond, cond = pair.chunk(2)
        return uncond + guidance * (cond - uncond)
