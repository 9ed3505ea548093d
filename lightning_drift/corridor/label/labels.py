"""What was said of a corridor's cells, kept in its folder as it is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_json
from lightning_drift.common.numbers import shown
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.drift.verdict import ZONES

FILE = "labels.json"
_BY = "lightning-drift corridor label"


class Labels:
    """Zones by run and step, in ``labels.json`` of a corridor's folder.

    Args:
        table: The corridor.

    Attributes:
        path: The file.
        zones: What was said, by run and step.

    Raises:
        UserError: The file is damaged, leads out of the folder, or is somebody else's.
    """

    def __init__(self, table: CorridorTable) -> None:
        self.path = table.folder / FILE
        self.zones: dict[tuple[str, int], str] = {}
        if not os.path.lexists(self.path):
            return
        if not table.holds(self.path):
            raise UserError(f"{self.path} is a link that leads out of {table.folder}; move it away")
        content = read_json(self.path, "file of labels")
        labels = content.get("labels")
        if content.get("made_by") != _BY or not isinstance(labels, list):
            raise UserError(f"{self.path} was not written by corridor label; move it away")
        for label in labels:
            self.zones |= _label(label, self.path)

    def say(self, key: tuple[str, int], zone: str | None) -> None:
        """Keep what was said of a cell; None takes it back.

        Raises:
            OSError: It cannot be written; what was said before stays.
        """
        zones = {**self.zones, key: zone}
        kept = {each: said for each, said in zones.items() if said is not None}
        labels = [{"run": run, "step": step, "zone": said} for (run, step), said in sorted(kept.items())]
        with atomic_write(self.path) as file:
            file.write(json.dumps({"made_by": _BY, "labels": labels}, indent=1).encode() + b"\n")
        self.zones = kept


def _label(label: object, path: Path) -> dict[tuple[str, int], str]:
    if isinstance(label, dict):
        run, step, zone = (label.get(part) for part in ("run", "step", "zone"))
        if isinstance(run, str) and type(step) is int and isinstance(zone, str) and zone in ZONES:
            return {(run, step): zone}
    raise UserError(f"the file of labels {path} is damaged: {shown(label)} is no label")
