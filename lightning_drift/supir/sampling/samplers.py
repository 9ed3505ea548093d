"""The two samplers: EDM with churn and restoration, and DPM-Solver++(2M) SDE."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from lightning_drift.supir.network.denoiser import Denoise
from lightning_drift.supir.network.schedule import SIGMA_REFERENCE, ddpm_sigmas, karras_sigmas, linear_ramp

Draw = Callable[[int], Tensor]
"""Unit normal noise of step i, of the latent's shape, on the latent's device."""

RESTORE_SIGMA_MIN = 0.05
MAX_CHURN = 2**0.5 - 1


@dataclass(frozen=True)
class EdmSampling:
    """One way of going from noise to a picture; noise levels are in the convention of EDM (arXiv:2206.00364).

    Args:
        sampler: `edm` or `dpmpp_2m_sde`.
        steps: Number of steps, 2 to 999.
        s_cfg: Guidance scale at noise level 0.
        spt_linear_cfg: Guidance scale at the largest noise level; None keeps `s_cfg` throughout.
        s_stage1: Exponent of the pull to the stage-1 latent; smaller is stronger, 0 or less is off.
        control_scale: Blend of the adapters at noise level 0, 0 to 1.
        spt_control_scale: Blend of the adapters at the largest noise level; None keeps `control_scale`.
        s_churn: Noise added back in the whole run (EDM only).
        s_noise: Factor of the added noise.
        eta: Stochasticity of DPM++ (0 deterministic, 1 SDE).
        reference: Reference behaviour throughout, see `supir.settings.Method`; of the samplers: restoration
            and the ramp of the adapters do nothing in DPM++.
    """

    sampler: Literal["edm", "dpmpp_2m_sde"] = "edm"
    steps: int = 30
    s_cfg: float = 3.0
    spt_linear_cfg: float | None = 1.0
    s_stage1: float = -1.0
    control_scale: float = 0.9
    spt_control_scale: float | None = None
    s_churn: float = 5.0
    s_noise: float = 1.01
    eta: float = 1.0
    reference: bool = False

    @property
    def restores(self) -> bool:
        """Whether the stage-1 latent is needed."""
        return self.s_stage1 > 0 and not (self.reference and self.sampler == "dpmpp_2m_sde")

    def sigmas(self) -> Tensor:
        """Noise levels, descending, with a final 0: [steps + 1] float32."""
        return ddpm_sigmas(self.steps) if self.sampler == "edm" else karras_sigmas(self.steps)

    def guidance(self, sigma: Tensor) -> float:
        """Guidance scale at a noise level."""
        if self.spt_linear_cfg is None:
            return self.s_cfg
        return float(linear_ramp(sigma, self.spt_linear_cfg, self.s_cfg))

    def control(self, sigma: Tensor) -> float:
        """Blend of the adapters at a noise level."""
        if self.spt_control_scale is None or (self.reference and self.sampler == "dpmpp_2m_sde"):
            return self.control_scale
        ramp = sigma / SIGMA_REFERENCE * (self.spt_control_scale - self.control_scale) + self.control_scale
        return float(ramp)

    def restore(self, denoised: Tensor, center: Tensor | None, sigma: Tensor, following: Tensor) -> Tensor:
        """Pull the estimate towards the stage-1 latent (SUPIR, arXiv:2401.13627, section 3.3)."""
        if center is None or not self.restores or not following > RESTORE_SIGMA_MIN:
            return denoised
        return denoised - (denoised - center) * (sigma / SIGMA_REFERENCE) ** self.s_stage1


def sample(
    settings: EdmSampling,
    denoise: Denoise,
    noise: Tensor,
    draw: Draw,
    center: Tensor | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    sigma_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Run a sampler from pure noise.

    Args:
        settings: Sampler, steps and scales.
        denoise: Guided estimate of the clean latent.
        noise: Unit normal [N, 4, h, w]; scaled here by ``sqrt(1 + sigma_0^2)`` (reference behaviour).
        draw: Noise of each stochastic step.
        center: Stage-1 latent [N, 4, h, w], for restoration.
        on_step: Called after every step with its number and the latent.
        sigma_dtype: Dtype of the sampler's arithmetic on sigma; bfloat16 emulates the reference's, whose
            levels are off by up to 0.3 %.

    Returns:
        The final latent [N, 4, h, w], float32.
    """
    sigmas = settings.sigmas()
    x = noise * (1.0 + sigmas[0] ** 2) ** 0.5
    steps = _edm if settings.sampler == "edm" else _dpmpp_2m_sde
    return steps(settings, denoise, x, sigmas.to(sigma_dtype), draw, center, on_step or (lambda *_: None))


def _edm(
    settings: EdmSampling,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    center: Tensor | None,
    on_step: Callable[[int, Tensor], None],
) -> Tensor:
    """Karras et al. 2022, algorithm 2, first order; guidance uses the level after churn, the rest before."""
    gamma = min(settings.s_churn / settings.steps, MAX_CHURN)
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        churned = sigma * (gamma + 1.0)
        if gamma > 0:
            x = x + draw(i).to(x.dtype) * settings.s_noise * (churned**2 - sigma**2) ** 0.5
        denoised = denoise(x, churned, settings.guidance(churned), settings.control(sigma))
        denoised = settings.restore(denoised, center, sigma, following)
        x = x + (following - churned) * ((x - denoised) / churned)
        on_step(i, x)
    return x


def _dpmpp_2m_sde(
    settings: EdmSampling,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    center: Tensor | None,
    on_step: Callable[[int, Tensor], None],
) -> Tensor:
    """DPM-Solver++(2M) SDE (Lu et al. 2022, arXiv:2211.01095), midpoint.

    No noise is added on the first step (reference behaviour). The reference draws from a Brownian tree; its
    increments over disjoint steps are independent unit normals, which is what `draw` gives.
    """
    previous: Tensor | None = None
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, settings.guidance(sigma), settings.control(sigma))
        denoised = settings.restore(denoised, center, sigma, following)
        if following == 0:
            x = denoised
        else:
            h = sigma.log() - following.log()
            mixed = denoised
            if previous is not None:
                ratio = (sigmas[i - 1].log() - sigma.log()) / h
                mixed = (1 + 1 / (2 * ratio)) * denoised - 1 / (2 * ratio) * previous
            decay = (-settings.eta * h).exp()
            x = following / sigma * decay * x - (-h - settings.eta * h).expm1() * mixed
            if previous is not None and settings.eta > 0:
                spread = following * (-(-2 * settings.eta * h).expm1()) ** 0.5
                x = x + draw(i) * settings.s_noise * spread
        previous = denoised
        on_step(i, x)
    return x
