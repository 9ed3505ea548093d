"""The pictures of a proof page at full size: in the page, or, where they are too many, in files beside it."""

import base64
import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image

from lightning_drift.common.atomic import atomic_write
from lightning_drift.pages.linked_pictures import LinkedPictures

FOLDER = "proof_pictures"
"""Where the files lie, beside the page."""
BUDGET = 64 * 2**20
"""Bytes of all pictures in a page; as base64 text they take a third more."""
LOSSLESS = 512
"""Longest side in pixels up to which pictures are stored without loss."""
QUALITY = 92


class ProofPictures:
    """Collects the pictures of one page, encoded: without loss up to `LOSSLESS` pixels, else as JPEG.

    Args:
        page: Where the page will be.

    Attributes:
        linked: Whether they lie in files.
    """

    def __init__(self, page: Path) -> None:
        self._folder = page.parent / FOLDER
        self._links = LinkedPictures(page.parent)
        self._pictures: list[tuple[Path, bytes]] = []  # empty once they lie in files
        self._room = BUDGET
        self.linked = False

    def add(self, name: str, known_by: str, longest: int, make: Callable[[], Image.Image]) -> int:
        """The position of a picture in what `addresses` returns.

        Args:
            name: What its file is called, should it be in one.
            known_by: Text that tells its pixels from any other's: a file that is there is not made again.
            longest: Its longest side in pixels.
            make: Makes it.

        Raises:
            OSError: Its file cannot be written.
        """
        digest = hashlib.sha256(known_by.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        ending = "webp" if longest <= LOSSLESS else "jpg"
        path = self._folder / f"{name[:80]}_{digest}.{ending}"
        is_there = path.is_file()
        data = b""
        if not (self.linked and is_there):
            data = path.read_bytes() if is_there else _encoded(make())
        self._room -= len(data)
        if self.linked and not is_there:
            _write(path, data)
        if self._room < 0 and not self.linked:
            self.linked = True
            for place, kept in [*self._pictures, (path, data)]:
                if not place.is_file():
                    _write(place, kept)
            self._pictures = [(place, b"") for place, _ in self._pictures]
        self._pictures.append((path, b"" if self.linked else data))
        return len(self._pictures) - 1

    def addresses(self) -> list[str]:
        """What a browser finds each picture by."""
        if self.linked:
            return [self._links.address(path) for path, _ in self._pictures]
        kinds = {".webp": "image/webp", ".jpg": "image/jpeg"}
        return [
            f"data:{kinds[path.suffix]};base64,{base64.b64encode(data).decode()}"
            for path, data in self._pictures
        ]


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def _encoded(image: Image.Image) -> bytes:
    file = BytesIO()
    image = image.convert("RGB")
    if max(image.size) <= LOSSLESS:
        image.save(file, format="WEBP", lossless=True, quality=60, method=4)
    else:
        image.save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
