"""Take a diffusion model drifting: full DreamBooth fine-tunes that are watched as they drift.

The public names are loaded when they are first used, so importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_drift.callbacks.image_writer import ImageWriter
    from lightning_drift.callbacks.seed_grid import SeedGrid
    from lightning_drift.checkpointing import AtomicCheckpointIO, StepCheckpoint
    from lightning_drift.dreambooth import DreamBooth
    from lightning_drift.dreamer import Dreamer, Prompts
    from lightning_drift.dreaming import dream
    from lightning_drift.instance_data import InstanceImages
    from lightning_drift.lab import Sweep, SweepDreamer
    from lightning_drift.stable_diffusion import StableDiffusion, load_stable_diffusion

_HOME = {
    "AtomicCheckpointIO": "checkpointing",
    "DreamBooth": "dreambooth",
    "Dreamer": "dreamer",
    "ImageWriter": "callbacks.image_writer",
    "InstanceImages": "instance_data",
    "Prompts": "dreamer",
    "SeedGrid": "callbacks.seed_grid",
    "StableDiffusion": "stable_diffusion",
    "StepCheckpoint": "checkpointing",
    "Sweep": "lab.sweep",
    "SweepDreamer": "lab.sweep_dreamer",
    "dream": "dreaming",
    "load_stable_diffusion": "stable_diffusion",
}

__all__ = [
    "AtomicCheckpointIO",
    "DreamBooth",
    "Dreamer",
    "ImageWriter",
    "InstanceImages",
    "Prompts",
    "SeedGrid",
    "StableDiffusion",
    "StepCheckpoint",
    "Sweep",
    "SweepDreamer",
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
