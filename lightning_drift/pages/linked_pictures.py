"""Pictures that are too many to lie in their page: it names the files, and a browser loads what it shows."""

import os
from pathlib import Path
from urllib.parse import quote

from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.pages.thumbnails import PIXEL_ART


class LinkedPictures:
    """Turns files into addresses that lead to them from a page's folder. No file but the first is opened.

    Args:
        folder: Where the page will lie.

    Attributes:
        uris: The addresses of the files added so far.
        pixel_art: Whether the first picture is small enough to be shown pixel by pixel.
    """

    def __init__(self, folder: Path) -> None:
        self.uris: list[str] = []
        self.pixel_art = False
        self._folder = os.path.abspath(folder)
        self._index: dict[Path, int] = {}

    def add(self, path: Path) -> int:
        """The position of a file's address in ``uris``; -1 if it is the first and cannot be read."""
        if path not in self._index:
            if not self.uris:
                try:
                    self.pixel_art = max(decode(path).image.size) <= PIXEL_ART
                except UndecodableError:
                    return -1
            self._index[path] = len(self.uris)
            self.uris.append(self.address(path))
        return self._index[path]

    def overlay(self, path: Path) -> str:
        """The address of a map."""
        return self.address(path)

    def address(self, path: Path) -> str:
        """The address of any file."""
        return quote(os.fsencode(Path(os.path.relpath(path, self._folder)).as_posix()))
