"""Pictures of runs and sweeps by their addresses: which files may be asked for, and what is sent."""

import os
import re
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from lightning_drift.corridor.inside import lies_in
from lightning_drift.images.decode import UndecodableError, decode, read_file
from lightning_drift.pages.thumbnails import PIXEL_ART, encode, encode_overlay
from lightning_drift.tensorboard.own_sweeps import OwnSweeps

THUMBNAIL = 256
"""Longest side of a thumbnail in pixels."""

_OF_A_RUN = [
    re.compile(rf"(?:(.+)/)?{place}", re.DOTALL)
    for place in (r"grids/step=[0-9]{1,11}/[^/]+\.png", r"instance_images\.png")
]
_OF_A_SWEEP = re.compile(r"(?:(.+)/)?images/[^/]+\.png", re.DOTALL)
_MAP = "_map.png"  # ends the name of a map, which is laid over its picture
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_THUMBNAIL_BYTES = 64 * 2**20


class Sent(NamedTuple):
    """A picture as it is sent: its bytes, their media type, and the version of its file."""

    data: bytes
    kind: str
    version: str


class PictureFiles:
    """The pictures in a log folder. Nothing is written: thumbnails are kept in memory, the latest 64 MiB.

    Args:
        own_sweeps: Which folders of the log folder are sweeps.
    """

    def __init__(self, own_sweeps: OwnSweeps) -> None:
        self.root = own_sweeps.root
        self._sweeps = own_sweeps
        self._thumbnails: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def address(self, path: Path, side: int | None = None) -> str | None:
        """The address of a file's picture, which changes with the file; None if it is no PNG."""
        try:
            status = os.stat(path)
            relative = path.relative_to(self.root)
        except (OSError, ValueError):
            return None
        if size(str(path), status.st_mtime_ns, status.st_size) is None:
            return None
        place = quote(os.fsencode(relative.as_posix()))
        return f"picture?path={place}&v={status.st_mtime_ns}" + (f"&side={side}" if side else "")

    def send(self, relative: str, side: str | None = None) -> Sent | None:
        """A picture of a run or a sweep.

        Args:
            relative: Its path from the log folder.
            side: The thumbnail's longest side; None for the file as it is. Maps are always sent small.

        Returns:
            None if there is no such picture, it may not be seen, or it is damaged.
        """
        path = self.find(relative)
        if path is None or side not in (None, str(THUMBNAIL)):
            return None
        try:
            status = os.stat(path)
            version = str(status.st_mtime_ns)
            if side is None and not path.name.endswith(_MAP):
                data = read_file(path)
                if not data.startswith(_PNG):
                    return None
                decode(data)  # what is damaged is refused
                return Sent(data, "image/png", version)
            key = str(path), status.st_mtime_ns, status.st_size
            return Sent(self._remembered(key, path), "image/webp", version)
        except (OSError, UndecodableError):
            return None

    def find(self, relative: str) -> Path | None:
        """The file of a picture, links followed.

        Args:
            relative: Its path from the log folder.

        Returns:
            None if it is no picture of a run or a sweep in the log folder, or is not there.
        """
        parts = relative.split("/")
        if "\0" in relative or "\\" in relative or not {"", ".", ".."}.isdisjoint(parts):
            return None
        try:
            path = Path(os.path.realpath(self.root.joinpath(*parts)))
            seen = lies_in(path, self.root) and os.path.isfile(path) and self._is_ours(relative)
            return path if seen else None
        except (OSError, ValueError):  # a name that the system's encoding lacks
            return None

    def _is_ours(self, relative: str) -> bool:
        """Whether a run or a sweep has such a picture."""
        runs = [self._owner(place, relative) for place in _OF_A_RUN]
        if any(run is not None and os.path.isfile(run / "config.yaml") for run in runs):
            return True
        sweep = self._owner(_OF_A_SWEEP, relative)
        return sweep is not None and self._sweeps.is_one(sweep)

    def _owner(self, place: re.Pattern[str], relative: str) -> Path | None:
        match = place.fullmatch(relative)
        return self.root / (match[1] or "") if match else None

    def _remembered(self, key: tuple[str, int, int], path: Path) -> bytes:
        with self._lock:
            if key in self._thumbnails:
                self._thumbnails.move_to_end(key)
                return self._thumbnails[key]
        made = encode_overlay(path) if path.name.endswith(_MAP) else encode(decode(path).image, THUMBNAIL)
        with self._lock:
            if key not in self._thumbnails:
                self._thumbnails[key] = made
                self._bytes += len(made)
            while self._bytes > _MOST_THUMBNAIL_BYTES:
                self._bytes -= len(self._thumbnails.popitem(last=False)[1])
        return made


class PagePictures:
    """The pictures of a page, by their addresses (`lightning_drift.corridor.page.Pictures`).

    Args:
        files: The log folder's pictures.

    Attributes:
        uris: The addresses of their thumbnails.
        full: The addresses of the pictures as they are.
        pixel_art: Whether the first is small enough to be shown pixel by pixel.
    """

    def __init__(self, files: PictureFiles) -> None:
        self.uris: list[str] = []
        self.full: list[str] = []
        self.pixel_art = False
        self._files = files
        self._index: dict[Path, int] = {}

    def add(self, path: Path) -> int:
        """The position of a file's picture in ``uris`` and ``full``; -1 if it is no PNG."""
        if path not in self._index:
            address = self._files.address(path)
            self._index[path] = -1 if address is None else len(self.uris)
            if address is not None:
                if not self.uris:
                    status = os.stat(path)
                    self.pixel_art = (
                        max(size(str(path), status.st_mtime_ns, status.st_size) or (0,)) <= PIXEL_ART
                    )
                self.uris.append(f"{address}&side={THUMBNAIL}")
                self.full.append(address)
        return self._index[path]

    def overlay(self, path: Path) -> str | None:
        """The address of a map; None if it is no PNG."""
        return self._files.address(path)


@lru_cache(maxsize=2**17)
def size(path: str, version: int, length: int) -> tuple[int, int] | None:
    """Width and height of a PNG by its first bytes; None for anything else.

    Args:
        path: The file.
        version: When it was written, in nanoseconds.
        length: Its bytes.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(24)
    except OSError:
        return None
    if length < 24 or not head.startswith(_PNG):
        return None
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
