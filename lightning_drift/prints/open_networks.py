"""Networks that upscale, from files in which nothing runs: read by our reader, recognised by spandrel."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.common.out_of_memory import is_out_of_memory, refuse_full
from lightning_drift.common.text import reason
from lightning_drift.prints.allocation_limit import AllocationLimit
from lightning_drift.prints.spandrel_library import spandrel
from lightning_drift.supir.network.find import WEIGHT_SUFFIXES, find_model
from lightning_drift.weights.files import from_state_dict, kind_of, open_weights
from lightning_drift.weights.hashes import sha256
from lightning_drift.weights.torch_file import load_torch_file

OPTION = "model.upscaler"
MOST_LAYERS = 999
"""The largest number in a weight's name: lists of layers are as long as names say."""

_TRIAL_SIDE = 32  # pixels; the windows of the architectures here are at most as wide


@dataclass(frozen=True)
class OpenNetwork:
    """A network that enlarges pictures.

    Attributes:
        descriptor: spandrel's ``ImageModelDescriptor``: the network, and what is known of it.
        hash: First 10 hexadecimal digits of its file's SHA-256.
    """

    descriptor: Any
    hash: str

    @property
    def scale(self) -> int:
        """Pixels a side that it makes of one; 2 or more."""
        return int(self.descriptor.scale)

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether spandrel says that its architecture works in a precision."""
        halves = {
            torch.float16: self.descriptor.supports_half,
            torch.bfloat16: self.descriptor.supports_bfloat16,
        }
        return bool(halves.get(dtype, True))

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move it; does nothing where it is there."""
        self.descriptor.to(device, dtype)

    def enlarge(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1], on its device and of its dtype, as [B, 3, scale H, scale W].

        Sizes that it cannot take are padded by reflection and cut off again, by spandrel.

        Raises:
            UserError: It cannot take them; a full memory is raised as it is.
        """
        try:
            made: Tensor = self.descriptor(pixels)
        except Exception as error:  # each architecture has its own
            if is_out_of_memory(error):
                raise
            high, wide = pixels.shape[-2:]
            raise UserError(f"the network fails on {wide}x{high} pixels ({reason(error)})") from error
        return made


def open_network(name: str) -> OpenNetwork:
    """Find, read and try a network, on the CPU in float32.

    Args:
        name: A local file, or ``owner/repository/file`` on the hub.

    Raises:
        UserError: It is missing, damaged, code, not known to spandrel, or no upscaler of RGB pictures.
    """
    path = _find(name)
    library = spandrel()
    try:
        state = _read(path, library)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # architectures are older than the PyTorch here
            return OpenNetwork(_recognised(state, path, library), sha256(path)[:10])
    except UserError as error:
        raise error.of(OPTION) from error


def _find(name: str) -> Path:
    if not user_path(name, OPTION).exists() and not name.lower().endswith(WEIGHT_SUFFIXES):
        raise UserError(
            f"no such file: {name}. Give lanczos, a network's .pth, .pt or .safetensors file, or "
            "owner/repository/file.pth on the hub",
            OPTION,
        )
    return find_model(name, OPTION)


def _read(path: Path, library: Any) -> dict[str, Tensor]:
    """The weights of a file; of several sets in it the averaged one (``params_ema``)."""
    if kind_of(path) == "torch":
        if _is_torchscript(path):
            raise UserError(
                f"{path} is a TorchScript program, which is code and not opened; give the network's weights "
                "as .pth or .safetensors"
            )
        loaded = load_torch_file(path)
        try:
            state = library.canonicalize_state_dict(loaded)
        except Exception:  # a name that is no text
            state = {}
        if not any(isinstance(value, Tensor) for value in state.values()):
            raise UserError(f"{path} holds no named weights; is it a network that upscales?")
        weights = from_state_dict(state, path)
    else:
        weights = open_weights(path)
    for key in weights.shapes:
        if any(len(digits) > 9 or int(digits) > MOST_LAYERS for digits in re.findall(r"[0-9]+", key)):
            raise UserError(f"{path} is damaged: it holds a weight called {key[:80]}")
    return {key: weights.read(key) for key in weights.shapes}


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(part.endswith("/constants.pkl") for part in archive.namelist())
    except Exception:  # no archive, or a damaged one: the reader says so
        return False


def _recognised(state: Mapping[str, Tensor], path: Path, library: Any) -> Any:
    """What spandrel makes of the weights, an ``ImageModelDescriptor`` that enlarges a small picture."""
    try:
        with AllocationLimit(state):
            descriptor = library.ModelLoader().load_from_state_dict(dict(state))
    except library.UnsupportedModelError as error:
        raise UserError(
            f"{path} is no network that spandrel knows; it knows upscalers whose code has a permissive "
            "licence, such as Real-ESRGAN, SwinIR, DAT, HAT, SPAN and OmniSR"
        ) from error
    except Exception as error:  # each architecture meets a file that does not fit in its own way
        refuse_full(error, str(path))
        raise UserError(
            f"{path} is damaged, or a variant of a network that spandrel does not know ({reason(error)})"
        ) from error
    called = f"{path} ({descriptor.architecture.name})"
    if descriptor.purpose != "SR" or not isinstance(descriptor, library.ImageModelDescriptor):
        what = {"FaceSR": "restores faces", "Inpainting": "fills masks"}.get(
            descriptor.purpose, "restores pictures at their size"
        )
        raise UserError(f"{called} {what} and is no upscaler")
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise UserError(
            f"{called} takes {descriptor.input_channels} channels and makes {descriptor.output_channels}; "
            "give an upscaler of RGB pictures"
        )
    if not 2 <= descriptor.scale <= 16:
        raise UserError(f"{called} enlarges {descriptor.scale} times; give an upscaler of 2 to 16 times")
    descriptor.eval()
    descriptor.model.requires_grad_(False)
    _try(descriptor, called)
    return descriptor


def _try(descriptor: Any, called: str) -> None:
    """Enlarge a small picture: an index in a file that leads astray would end a GPU's whole process.

    Raises:
        UserError: The network fails, makes another size or no numbers, or draws noise.
    """
    needs = descriptor.size_requirements
    side = -(-max(needs.minimum, _TRIAL_SIDE) // needs.multiple_of) * needs.multiple_of
    picture = torch.linspace(0, 1, 3 * side * side).reshape(1, 3, side, side)
    stream = torch.random.get_rng_state()
    try:
        made = descriptor(picture)
    except Exception as error:  # see `_recognised`
        refuse_full(error, called)
        raise UserError(f"{called} does not work ({reason(error)}); fetch it again") from error
    if made.shape != (1, 3, side * descriptor.scale, side * descriptor.scale):
        raise UserError(f"{called} makes {list(made.shape)} of {side}x{side} pixels; fetch it again")
    if not made.isfinite().all():
        raise UserError(f"{called} makes no numbers; fetch it again")
    if not torch.equal(stream, torch.random.get_rng_state()):
        raise UserError(f"{called} draws noise for a picture, which could not be made again; give another")
