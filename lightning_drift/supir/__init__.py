"""Upscaling with SUPIR v0 (Yu et al. 2024, arXiv:2401.13627) on an SDXL base.

`SupirUpscaler` and `UpscaleImages` are what the command line builds; importing this package alone loads
neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_drift.supir.images import UpscaleImages
    from lightning_drift.supir.upscaler import SupirUpscaler

__all__ = ["SupirUpscaler", "UpscaleImages"]


def __getattr__(name: str) -> Any:
    modules = {"SupirUpscaler": "upscaler", "UpscaleImages": "images"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
