"""Pictures small enough for one page: each once, as data URIs."""

import base64
import hashlib
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from lightning_drift.common.errors import notice
from lightning_drift.images.decode import UndecodableError, decode, read_file
from lightning_drift.images.overlay import read_overlay

SIDES = (512, 384, 320, 256, 192, 128)
"""Longest sides in pixels to choose from; the largest at which all pictures fit is taken."""

BUDGET = 9 * 2**20
"""Bytes for all pictures together; as base64 text they take a third more."""

PIXEL_ART = 128
"""Longest side in pixels up to which pictures are stored without loss and shown pixel by pixel."""


class Thumbnails:
    """Turns files into data URIs; files with the same content share one.

    A file that cannot be read as a picture has none, and one notice says why: the page is written without it.

    Args:
        paths: All files that will be added; the thumbnails' side is chosen so that they fit ``BUDGET``.

    Attributes:
        uris: The data URIs of the files added so far.
        count: How many different pictures the files hold.
        side: Longest side of a thumbnail in pixels.
        pixel_art: Whether the first picture is small enough to be stored without loss.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.uris: list[str] = []
        self._index: dict[str, int] = {}
        self._digests: dict[Path, str] = {}
        for path in dict.fromkeys(paths):
            try:
                self._digests[path] = hashlib.sha256(read_file(path)).hexdigest()
            except UndecodableError as error:
                self._digests[path] = f"{path}"
                self._index[f"{path}"] = -1
                _report(path, error)
        files = {digest: path for path, digest in self._digests.items() if digest not in self._index}
        self.count = len(files)
        self.pixel_art = False
        self.side = self._fitting_side(list(files.values()))

    def add(self, path: Path) -> int:
        """The position of a file's picture in ``uris``; -1 if it cannot be read."""
        digest = self._digests[path]
        if digest not in self._index:
            self._index[digest] = -1
            try:
                uri = data_uri(decode(path).image, self.side)
            except UndecodableError as error:
                _report(path, error)
            else:
                self._index[digest] = len(self.uris)
                self.uris.append(uri)
        return self._index[digest]

    def overlay(self, path: Path) -> str | None:
        """The data URI of a map, 64 pixels a side at most; None if it cannot be read."""
        try:
            return "data:image/webp;base64," + base64.b64encode(encode_overlay(path)).decode()
        except UndecodableError as error:
            _report(path, error)
            return None

    def _fitting_side(self, files: list[Path]) -> int:
        """The largest side at which all pictures fit, judged by up to 16 of them."""
        sample = [files[k * len(files) // 16] for k in range(16)] if len(files) > 16 else files
        images: list[Image.Image] = []
        for path in sample:
            with suppress(UndecodableError):  # `add` reports it
                images.append(decode(path).image)
        self.pixel_art = bool(images) and max(images[0].size) <= PIXEL_ART
        for side in SIDES:
            size = sum(len(encode(image, side)) for image in images)
            if size * len(files) <= BUDGET * max(1, len(images)):
                return side
        return SIDES[-1]


def _report(path: Path, error: UndecodableError) -> None:
    notice(f"{path} {error}; the page is without it")


def encode(image: Image.Image, side: int) -> bytes:
    """WebP with the longest side at most ``side``; without loss up to ``PIXEL_ART``."""
    image = image.convert("RGB")
    longest = max(image.size)
    if longest > side:
        scale = side / longest
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, format="WEBP", lossless=longest <= PIXEL_ART, quality=82, method=4)
    return file.getvalue()


def encode_overlay(path: Path) -> bytes:
    """A map as WebP, 64 pixels a side at most.

    Raises:
        UndecodableError: It cannot be read.
    """
    image = read_overlay(path)
    image.thumbnail((64, 64), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, format="WEBP", lossless=True)
    return file.getvalue()


def data_uri(image: Image.Image, side: int) -> str:
    """A picture as text that a page can hold."""
    return "data:image/webp;base64," + base64.b64encode(encode(image, side)).decode()
