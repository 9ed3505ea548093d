"""Importing spandrel, the library that knows the open upscalers, with or without torchvision."""

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import reason

INSTALL = "pip install --no-deps spandrel einops"
"""It asks for torchvision, whose wheels do not load beside every build of PyTorch; all else is here."""


def spandrel() -> Any:
    """The module ``spandrel``, imported when it is first asked for.

    Two of its architectures, a face restorer and an inpainter, import torchvision, the first of them as
    spandrel itself is imported; neither is an upscaler. Where torchvision is not installed, empty modules
    stand in for it until spandrel is imported, and are gone when other libraries look for it.

    Raises:
        UserError: It, or what it needs, is not installed or fails.
    """
    stand_ins = {} if "spandrel" in sys.modules or find_spec("torchvision") else _torchvision()
    sys.modules.update(stand_ins)
    try:
        import spandrel

        return spandrel
    except ModuleNotFoundError as error:
        raise UserError(
            f"a network needs the package {error.name}, which is not installed: {INSTALL}", "model.upscaler"
        ) from error
    except Exception as error:  # a torchvision that was built for another PyTorch raises RuntimeError
        raise UserError(f"spandrel cannot be imported ({reason(error)})", "model.upscaler") from error
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _torchvision() -> dict[str, ModuleType]:
    """Modules with the three names that are imported from torchvision, all None."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: ModuleType(name) for name in names}
    functional = modules[names[-1]]
    functional.__dict__.update(normalize=None, rotate=None, InterpolationMode=None)
    return modules
