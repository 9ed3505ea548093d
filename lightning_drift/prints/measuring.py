"""What trials of prints measure with: memory held, how fast files are packed, a device's name."""

import sys
from io import BytesIO
from pathlib import Path
from time import perf_counter

import torch
from PIL import Image

_SIDE = 256


def device_name(device: torch.device) -> str:
    """A device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"


def packing() -> float:
    """Seconds that a pixel of a PNG or TIFF takes to be packed."""
    noise = torch.rand(_SIDE, _SIDE, 3, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray((noise * 64).to(torch.uint8).numpy())
    begin = perf_counter()
    image.save(BytesIO(), format="PNG")
    return (perf_counter() - begin) / _SIDE**2


def resident() -> int:
    """Bytes of this process in the computer's memory now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()


def most_resident(device: torch.device) -> int:
    """Bytes of the device that this process has held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
