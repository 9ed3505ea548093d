"""Reading photographs: decoded as a person sees them, checked, and cut to the square that the model sees."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.out_of_memory import during
from lightning_drift.common.text import listed
from lightning_drift.images.decode import UndecodableError, decode, read_file
from lightning_drift.photos.near_duplicates import perceptual_hash, pixel_digest

MOST_STRIP = 100_000_000
"""Pixels of a photo that is resized whole, for random crops."""


@dataclass
class Photo:
    """One photograph, read once: what was learnt of it, and its pixels at the model's size.

    While that size is not known, ``content`` holds the file's bytes, a few MB, in their place.
    """

    path: Path
    file_hash: bytes
    pixels: bytes
    look: NDArray[np.bool_]
    size: tuple[int, int]
    sized: Tensor | None = None
    content: bytes = b""


class PhotoReader:
    """Reads photographs as the options of `InstanceImages` say.

    Args:
        resolution: Side of the square, pixels; None if only the base model will tell.
        crop: Where the square is cut.
        ground: Colour under transparent parts, red, green and blue, 0-255.
        allow_small: Enlarge photos whose short side is below the resolution.
    """

    def __init__(
        self,
        resolution: int | None,
        crop: Literal["center", "random"],
        ground: tuple[int, int, int],
        allow_small: bool,
    ) -> None:
        self.resolution = resolution
        self.crop = crop
        self.ground = ground
        self.allow_small = allow_small

    def read(self, paths: Sequence[Path]) -> list[Photo]:
        """The photos of a folder, with notices on what was decided on the way.

        Raises:
            UserError: Some of its files cannot be used; every such file is named with its reason.
        """
        refused: dict[str, str] = {}
        remarks: dict[str, list[str]] = {}
        photos: list[Photo] = []
        for path in paths:
            try:
                with during(f"reading the photo {path.name}"):
                    photo, found = self._read(path)
            except UndecodableError as error:
                refused[path.name] = str(error)
                continue
            for remark in found:
                remarks.setdefault(remark, []).append(path.name)
            photos.append(photo)
        if refused:
            raise _refusal(paths[0].parent, len(paths), refused)
        for remark, names in remarks.items():
            notice(f"{listed(names)}: {remark}")
        return photos

    def sized(self, photos: Sequence[Photo], side: int) -> list[Tensor]:
        """Photos at the model's size, uint8 ``[H, W, 3]``; squares unless ``crop`` is random.

        Args:
            photos: Some photos of one folder.
            side: Side of the square, pixels.

        Raises:
            UserError: Photos are smaller; all are named.
        """
        refused = {}
        for photo in photos:
            try:
                self._check_size(photo.size, side)
                if photo.sized is None:
                    with during(f"reading the photo {photo.path.name}"):
                        photo.sized = self._fit(decode(photo.content, self.ground).image, side)
                    photo.content = b""
            except UndecodableError as error:
                refused[photo.path.name] = str(error)
        if refused:
            raise _refusal(photos[0].path.parent, len(photos), refused)
        return [photo.sized for photo in photos if photo.sized is not None]

    def _read(self, path: Path) -> tuple[Photo, tuple[str, ...]]:
        """A photo, and remarks on what was decided on the way."""
        content = read_file(path)
        picture = decode(content, self.ground)
        if self.resolution is not None:
            self._check_size(picture.image.size, self.resolution)
        photo = Photo(
            path,
            hashlib.blake2b(content, digest_size=16).digest(),
            pixel_digest(picture.image),
            perceptual_hash(picture.image),
            picture.image.size,
        )
        if self.resolution is None:
            photo.content = content
        else:
            photo.sized = self._fit(picture.image, self.resolution)
        return photo, picture.remarks

    def _check_size(self, size: tuple[int, int], resolution: int) -> None:
        if min(size) < resolution and not self.allow_small:
            raise UndecodableError(
                f"is {size[0]}x{size[1]}, its short side below {resolution} (data.allow_small enlarges it)"
            )
        if self.crop == "random" and max(size) / min(size) * resolution**2 > MOST_STRIP:
            raise UndecodableError(
                f"is {size[0]}x{size[1]}, too long and narrow for random crops (set data.crop: center)"
            )

    def _fit(self, image: Image.Image, resolution: int) -> Tensor:
        """Resize the short side to ``resolution``; for a centre crop, of the middle square only.

        Lanczos, since it keeps the most detail of the antialiased filters, and the photos' texture is what is
        learnt.
        """
        width, height = image.size
        short = min(width, height)
        if self.crop == "center":
            left, top = (width - short) / 2, (height - short) / 2
            box = (left, top, left + short, top + short)
            image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
        else:
            size = (round(width * resolution / short), round(height * resolution / short))
            image = image.resize(size, Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image))


def _refusal(folder: Path, count: int, refused: dict[str, str]) -> UserError:
    return UserError(
        f"{len(refused)} of {count} photos in {folder} cannot be used; mend or remove them:",
        details=[f"{name} {reason}" for name, reason in refused.items()],
    )
