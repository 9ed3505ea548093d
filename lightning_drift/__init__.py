"""Take a diffusion model drifting: full DreamBooth fine-tunes that are watched as they drift.

The public names are loaded when they are first used, so importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_drift.dreams.dreamer import Dreamer, Prompts
    from lightning_drift.drift.clip_drift import ClipDrift
    from lightning_drift.fit.checkpointing import AtomicCheckpointIO, StepCheckpoint
    from lightning_drift.fit.dreambooth import DreamBooth
    from lightning_drift.fit.seed_grid import SeedGrid
    from lightning_drift.images.image_writer import ImageWriter
    from lightning_drift.photos.instance_images import InstanceImages
    from lightning_drift.prints.images import UpscaleImages
    from lightning_drift.prints.open_upscaler import OpenUpscaler
    from lightning_drift.prints.proofs import Proofs
    from lightning_drift.prints.supir_upscaler import SupirUpscaler
    from lightning_drift.stable_diffusion.loading import StableDiffusion, load_stable_diffusion
    from lightning_drift.stable_diffusion.sampling import dream
    from lightning_drift.sweep.data import Sweep
    from lightning_drift.sweep.sweep_dreamer import SweepDreamer

_HOME = {
    "AtomicCheckpointIO": "fit.checkpointing",
    "ClipDrift": "drift.clip_drift",
    "DreamBooth": "fit.dreambooth",
    "Dreamer": "dreams.dreamer",
    "ImageWriter": "images.image_writer",
    "InstanceImages": "photos.instance_images",
    "OpenUpscaler": "prints.open_upscaler",
    "Prompts": "dreams.dreamer",
    "Proofs": "prints.proofs",
    "SeedGrid": "fit.seed_grid",
    "StableDiffusion": "stable_diffusion.loading",
    "StepCheckpoint": "fit.checkpointing",
    "SupirUpscaler": "prints.supir_upscaler",
    "Sweep": "sweep.data",
    "SweepDreamer": "sweep.sweep_dreamer",
    "UpscaleImages": "prints.images",
    "dream": "stable_diffusion.sampling",
    "load_stable_diffusion": "stable_diffusion.loading",
}

__all__ = [
    "AtomicCheckpointIO",
    "ClipDrift",
    "DreamBooth",
    "Dreamer",
    "ImageWriter",
    "InstanceImages",
    "OpenUpscaler",
    "Prompts",
    "Proofs",
    "SeedGrid",
    "StableDiffusion",
    "StepCheckpoint",
    "SupirUpscaler",
    "Sweep",
    "SweepDreamer",
    "UpscaleImages",
    "dream",
    "load_stable_diffusion",
]


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f"lightning_drift.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
