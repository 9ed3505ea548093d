"""Pictures small enough for one page: each once, as data URIs."""

import base64
import hashlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image

SIDES = (512, 384, 320, 256, 192, 128)
"""Longest sides in pixels to choose from; the largest at which all pictures fit is taken."""

BUDGET = 9 * 2**20
"""Bytes for all pictures together; as base64 text they take a third more."""

PIXEL_ART = 128
"""Longest side in pixels up to which pictures are stored without loss and shown pixel by pixel."""


class Thumbnails:
    """Turns files into data URIs; files with the same content share one.

    Args:
        paths: All files that will be added; the thumbnails' side is chosen so that they fit ``BUDGET``.

    Attributes:
        uris: The data URIs of the files added so far.
        count: How many different pictures the files hold.
        side: Longest side of a thumbnail in pixels.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.uris: list[str] = []
        self._index: dict[str, int] = {}
        self._digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in dict.fromkeys(paths)}
        files = {digest: path for path, digest in self._digests.items()}
        self.count = len(files)
        self.side = self._fitting_side(list(files.values()))

    def add(self, path: Path) -> int:
        """The position of a file's picture in ``uris``."""
        digest = self._digests[path]
        if digest not in self._index:
            self._index[digest] = len(self.uris)
            with Image.open(path) as image:
                self.uris.append(data_uri(image, self.side))
        return self._index[digest]

    def _fitting_side(self, files: list[Path]) -> int:
        """The largest side at which all pictures fit, judged by up to 16 of them."""
        sample = [files[k * len(files) // 16] for k in range(16)] if len(files) > 16 else files
        for side in SIDES:
            size = 0
            for path in sample:
                with Image.open(path) as image:
                    size += len(encode(image, side))
            if size * len(files) <= BUDGET * max(1, len(sample)):
                return side
        return SIDES[-1]


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


def data_uri(image: Image.Image, side: int) -> str:
    """A picture as text that a page can hold."""
    return "data:image/webp;base64," + base64.b64encode(encode(image, side)).decode()
