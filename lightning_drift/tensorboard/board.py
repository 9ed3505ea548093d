"""What the tab shows: the groups of runs in a log folder, and the page of a group as data."""

import json
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from lightning_drift.common.claim_files import CLAIM
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_json
from lightning_drift.corridor import recipe, wording
from lightning_drift.corridor.choice import choose
from lightning_drift.corridor.find_runs import FoundRuns, find_runs
from lightning_drift.corridor.inside import lies_in
from lightning_drift.corridor.page import corridor_content
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.table import CorridorTable, tabulate
from lightning_drift.drift.verdict import in_a_line
from lightning_drift.pages.page import render
from lightning_drift.tensorboard.logged import Logged, Provider
from lightning_drift.tensorboard.own_runs import OwnRuns
from lightning_drift.tensorboard.pictures import PagePictures, PictureFiles
from lightning_drift.tensorboard.progress import progress

_KEPT = 16
"""Groups whose configurations and photos are kept in memory."""


@dataclass(frozen=True)
class Group:
    """Runs that are shown together.

    Attributes:
        name: Their folder's path from the log folder; ``.`` for the log folder itself.
        folder: Their folder.
        runs: Their names in TensorBoard.
    """

    name: str
    folder: Path
    runs: list[str]


class Board:
    """The corridors of a log folder. Scalars come from TensorBoard, everything else from the runs' files.

    Nothing is written, and nothing is read that lies outside the log folder, links followed.

    Args:
        own_runs: Which runs are ours.
        pictures: The pictures in the log folder.
    """

    def __init__(self, own_runs: OwnRuns, pictures: PictureFiles) -> None:
        self.root = own_runs.root
        self.pictures = pictures
        self._own = own_runs
        self._found: OrderedDict[str, tuple[object, FoundRuns]] = OrderedDict()
        self._photos: OrderedDict[str, recipe.Photos | None] = OrderedDict()
        self._lock = threading.Lock()

    def groups(self, provider: Provider) -> list[dict[str, Any]]:
        """The groups, the one with the newest scalar first.

        Returns:
            For each its name, its title, the query that asks for it, and whether one of its runs goes on.
        """
        groups = self._groups(provider)
        ends = provider.last([run for group in groups for run in group.runs])
        newest = {
            group.name: max((ends[run][1] for run in group.runs if run in ends), default=0.0)
            for group in groups
        }
        return [
            {
                "name": group.name,
                "title": self._title(group.name),
                "query": f"group={quote(os.fsencode(group.name))}",
                "running": self._runs_on(group, ends),
            }
            for group in sorted(groups, key=lambda group: (-newest[group.name], group.name))
        ]

    def page(self, provider: Provider, name: str) -> dict[str, Any] | None:
        """The page of a group.

        Args:
            provider: TensorBoard's data.
            name: The group's name.

        Returns:
            None if there is no such group. Else its texts, its HTML and what its script needs, the progress
            of its runs, and remarks on what was passed over; where it cannot be shown, ``problem`` says why.
        """
        group = next((group for group in self._groups(provider) if group.name == name), None)
        if group is None:
            return None
        logged = provider.read(group.runs)
        with self._lock:
            try:
                return self._content(group, logged)
            except UserError as error:
                return {"title": self._title(name), "problem": str(error)}
            except OSError as error:  # a run may be moved away while it is read
                return {
                    "title": self._title(name),
                    "problem": f"cannot read {group.folder}: {error.strerror}",
                }

    def _groups(self, provider: Provider) -> list[Group]:
        members: dict[str, list[str]] = {}
        for run in sorted(provider.runs):
            if self._own.is_ours(run):
                members.setdefault(PurePosixPath(run).parent.as_posix(), []).append(run)
        return [Group(name, self.root / name, runs) for name, runs in members.items()]

    def _title(self, name: str) -> str:
        return Path(os.path.realpath(self.root)).name if name == "." else name.replace("/", " / ")

    def _content(self, group: Group, logged: Mapping[str, Logged]) -> dict[str, Any]:
        found = self._runs(group)
        records = {run.folder: logged.get(_name(run, self.root), Logged()) for run in found.runs}
        runs = [_with_logged(run, records[run.folder]) for run in found.runs]
        table = tabulate(replace(found, runs=runs))
        pictures = PagePictures(self.pictures)
        content = corridor_content(table, choose(table), pictures, self._shown_photos)
        now = time.time()
        labels = wording.labels(table)
        return {
            **{name: content[name] for name in ("title", "eyebrow", "lead")},
            "html": render("corridor/body.html", **content),
            "data": {**content["data"], "pictures": pictures.full},
            "progress": [
                {"label": label, **asdict(progress(run, records[run.folder], now))}
                for label, run in zip(labels, table.runs, strict=True)
            ],
            "remarks": table.remarks,
        }

    def _runs(self, group: Group) -> FoundRuns:
        """The group's runs as their configurations tell them, which are read again where one has changed."""
        stamp = _stamp(group, self.root)
        if group.name not in self._found or self._found[group.name][0] != stamp:
            ours = {self.root / run for run in group.runs}
            found = find_runs(group.folder, self.root, wanted=lambda folder: folder in ours)
            self._found[group.name] = stamp, found
        self._found.move_to_end(group.name)
        while len(self._found) > _KEPT:
            self._found.popitem(last=False)
        return self._found[group.name][1]

    def _runs_on(self, group: Group, ends: Mapping[str, tuple[int, float]]) -> bool:
        with self._lock:
            try:
                runs = self._runs(group).runs
            except (UserError, OSError):  # its page tells of it
                return False
        now = time.time()
        records = {run.folder: ends.get(_name(run, self.root), (None, None)) for run in runs}
        return any(progress(run, Logged(*records[run.folder]), now).running for run in runs)

    def _shown_photos(self, table: CorridorTable) -> recipe.Photos | None:
        """The photos of a group; those of a corridor do not change, so they are made small once."""
        config = table.runs[0].config
        sheets = [run.folder / "instance_images.png" for run in table.runs]
        there = [path for path in sheets if os.path.isfile(path) and lies_in(path, self.root)]
        key = json.dumps(
            [config.get("data"), config.get("seed_everything"), list(map(str, there))], default=str
        )
        if key not in self._photos:
            self._photos[key] = recipe.photos(table)
        self._photos.move_to_end(key)
        while len(self._photos) > _KEPT:
            self._photos.popitem(last=False)
        return self._photos[key]


def _name(run: RecordedRun, root: Path) -> str:
    """A run's name in TensorBoard."""
    return run.folder.relative_to(root).as_posix()


def _with_logged(run: RecordedRun, logged: Logged) -> RecordedRun:
    """A run with what it logged. Verdicts that TensorBoard has let go are read from its ``drift/``."""
    whole = replace(run, scalars=logged.scalars, remarks=[*run.remarks])
    verdicts = dict(logged.verdicts)
    zones = dict(logged.scalars.get("drift/zone", []))
    for step in sorted(zones.keys() - verdicts.keys()):
        path = whole.reading(step)
        if path is not None:
            try:
                verdicts[step] = _sentence(read_json(path, "reading"))
            except UserError as error:
                whole.remarks.append(f"{error}; it is passed over")
    whole.verdicts = verdicts
    return whole


def _sentence(reading: Mapping[str, object]) -> str:
    """The verdict of a reading as TensorBoard has it."""
    border, position = reading.get("borderline"), reading.get("position")
    place = position if isinstance(position, int | float) else None
    near = str(border) if border else None
    return in_a_line(str(reading.get("zone")), near, place, str(reading.get("reason") or "")).strip()


def _stamp(group: Group, root: Path) -> object:
    """Changes whenever a file does that tells what the group's runs are."""
    seen: list[tuple[str, int, int, int]] = []
    for folder in (group.folder, *(root / run for run in group.runs)):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == CLAIM:  # which is renewed while a fit runs
                    continue
                if entry.is_dir() or re.search(r"\.(yaml|error\.txt)$", entry.name):
                    with suppress(OSError):  # gone meanwhile, or a link to nothing
                        status = os.stat(entry.path)
                        seen.append((entry.path, status.st_mtime_ns, status.st_size, status.st_ino))
    return group.runs, sorted(seen)
