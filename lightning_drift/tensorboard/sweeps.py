"""The sweeps of a log folder: their list, and the ranking page of one, over addresses of the plugin."""

import base64
import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_drift.common.errors import UserError
from lightning_drift.corridor.inside import lies_in
from lightning_drift.sweep.index import FILES, Index
from lightning_drift.sweep.index_head import INDEX
from lightning_drift.sweep.page import PAGE, PictureAddresses, sweep_page
from lightning_drift.sweep.recorded import read_facts, read_index
from lightning_drift.tensorboard.own_sweeps import OwnSweeps
from lightning_drift.tensorboard.pictures import THUMBNAIL, PictureFiles, size

MOST_LISTED = 500
"""Sweeps that are listed, the newest of those found."""

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True)
class SweepPage:
    """The page of a sweep.

    Attributes:
        html: Its text.
        policy: The Content-Security-Policy under which its own scripts run and no others.
    """

    html: str
    policy: str


class Sweeps:
    """The finished sweeps of a log folder. Nothing is written, and no HTML of a file is passed on.

    Args:
        own_sweeps: Where they lie.
        pictures: The pictures in the log folder.
    """

    def __init__(self, own_sweeps: OwnSweeps, pictures: PictureFiles) -> None:
        self._own = own_sweeps
        self._pictures = pictures
        self._counts: dict[Path, tuple[tuple[int, int], int | None]] = {}
        self._lock = threading.Lock()

    def listed(self) -> list[dict[str, Any]]:
        """The sweeps whose index can be read, the one with the newest index first.

        Returns:
            For each its name, its title, the query that asks for its page, and the number of its pictures.
        """
        dated = []
        for folder in self._own.folders():
            try:
                status = os.stat(folder / INDEX)
            except OSError:  # gone since it was found
                continue
            dated.append((-status.st_mtime_ns, folder, (status.st_mtime_ns, status.st_size)))
        told = []
        with self._lock:
            for _, folder, version in sorted(dated)[:MOST_LISTED]:
                count = self._count(folder, version)
                if count is not None:
                    name = self._name(folder)
                    query = f"name={quote(os.fsencode(name))}"
                    told.append({"name": name, "title": self._title(name), "query": query, "pictures": count})
        return told

    def page(self, name: str) -> SweepPage | None:
        """The ranking page of a sweep, made from its index.

        Args:
            name: The sweep's name.

        Returns:
            None if there is no such sweep, its index is damaged, or none of its pictures is there.
        """
        folder = next((each for each in self._own.folders() if self._name(each) == name), None)
        if folder is None or not self._own.is_one(folder):
            return None
        try:
            index = read_index(folder / INDEX)
        except UserError:
            return None
        page = folder / PAGE
        facts = read_facts(page, index) if os.path.isfile(page) and lies_in(page, self._own.root) else None
        named = len(index.rows)
        try:
            shown = self._shown(folder, index)
        except OSError:  # moved away while it is read
            return None
        if shown is None:
            return None
        text = sweep_page(
            index,
            shown,
            self._title(name),
            facts,
            folder,
            missing=named - len(index.rows),
        )
        return SweepPage(text, _policy(text))

    def _shown(self, folder: Path, index: Index) -> PictureAddresses | None:
        """Addresses of the pictures that are there. Rows lose the other files, the index rows without any."""
        addresses: dict[str, str] = {}
        for name in index.files:
            place = self._name(folder, name)
            address = self._pictures.address(self._own.root / place) if self._pictures.find(place) else None
            if address is not None:
                addresses[name] = address
        index.rows = [row for row in index.rows if row["file"] in addresses]
        if not index.rows:
            return None
        for row in index.rows:
            for name in FILES:
                if row.get(name) not in addresses:
                    row.pop(name, None)
        maps = {row["map_file"] for row in index.rows if "map_file" in row}  # which are always sent small
        small = {name: f"{at}&side={THUMBNAIL}" for name, at in addresses.items() if name not in maps}
        first = folder / index.rows[0]["file"]
        status = os.stat(first)
        return PictureAddresses(
            size(str(first), status.st_mtime_ns, status.st_size) or (1, 1), addresses, small
        )

    def _count(self, folder: Path, version: tuple[int, int]) -> int | None:
        """How many pictures an index names, read once for each time that it was written; None if damaged."""
        if folder not in self._counts or self._counts[folder][0] != version:
            if len(self._counts) > 10 * MOST_LISTED:
                self._counts.clear()
            try:
                self._counts[folder] = version, len(read_index(folder / INDEX).rows)
            except UserError:
                self._counts[folder] = version, None
        return self._counts[folder][1]

    def _name(self, folder: Path, file: str = "") -> str:
        """A sweep's or its file's path from the log folder. A file's own path stays as it was written."""
        name = folder.relative_to(self._own.root).as_posix()
        if not file:
            return name
        return file if name == "." else f"{name}/{file}"

    def _title(self, name: str) -> str:
        return Path(os.path.realpath(self._own.root)).name if name == "." else name.replace("/", " / ")


def _policy(text: str) -> str:
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in _SCRIPT.findall(text)
    ]
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
        f"script-src {scripts}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
