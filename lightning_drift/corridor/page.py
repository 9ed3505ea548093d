"""The page of a corridor: one HTML file with every picture inside it, as long as they are not too many."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from lightning_drift.corridor import commands, recipe, wording
from lightning_drift.corridor.choice import Choice
from lightning_drift.corridor.curves import curves, shade
from lightning_drift.corridor.grids import Place, picture_files, seeds_by_prompt
from lightning_drift.corridor.recorded_run import CorridorCell, RecordedRun
from lightning_drift.corridor.run_differences import run_differences
from lightning_drift.corridor.sampled_runs import how_many, sampled_runs
from lightning_drift.corridor.spread import spreads
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.pages.linked_pictures import LinkedPictures
from lightning_drift.pages.page import render
from lightning_drift.pages.thumbnails import Thumbnails

_BASE = "The untouched model, from the same seeds. Everything else on this page is compared with it."


@dataclass(frozen=True)
class Tile:
    """A cell as the map shows it.

    Attributes:
        cell: The cell.
        picture: The data URI of its first picture; None without any.
        note: Its position, and the zone it is near; empty without either.
        summary: The cell in words.
        chosen: Whether it is the chosen checkpoint.
    """

    cell: CorridorCell
    picture: str | None
    note: str
    summary: str
    chosen: bool


class Pictures(Protocol):
    """What the pictures of a page are shown by.

    Attributes:
        uris: The addresses of the pictures that were added.
        pixel_art: Whether they are small enough to be shown pixel by pixel.
    """

    uris: list[str]
    pixel_art: bool

    def add(self, path: Path) -> int:
        """The position of a file's picture in ``uris``; -1 if it cannot be read."""

    def overlay(self, path: Path) -> str | None:
        """The address of a map; None if it cannot be read."""


MOST_EMBEDDED = 5_000
"""Pictures of checkpoints that a page holds itself; more are loaded from their files."""


def has_linked_pictures(table: CorridorTable) -> bool:
    """Whether the pictures are too many for one file, which a browser would have to read to its end."""
    return sum(place.step > 0 for place in picture_files(table)) > MOST_EMBEDDED


def corridor_page(table: CorridorTable, choice: Choice, folder: Path | None = None) -> str:
    """The page as text, with everything inside it; but of too many pictures their addresses.

    Args:
        table: The corridor.
        choice: The chosen checkpoint.
        folder: Where the page will lie; None for the corridor's folder.
    """
    linked = has_linked_pictures(table)
    pictures: Pictures = (
        LinkedPictures(folder or table.folder) if linked else Thumbnails(picture_files(table).values())
    )
    return render("corridor/page.html", **corridor_content(table, choice, pictures, linked=linked))


def corridor_content(
    table: CorridorTable,
    choice: Choice,
    pictures: Pictures,
    photos: Callable[[CorridorTable], recipe.Photos | None] = recipe.photos,
    linked: bool = False,
) -> dict[str, Any]:
    """What ``corridor/page.html`` and ``corridor/body.html`` are filled with.

    Args:
        table: The corridor.
        choice: The chosen checkpoint.
        pictures: Where the pictures come from.
        photos: What shows the photos of the fits.
        linked: Whether the pictures lie beside the page.
    """
    files = picture_files(table)
    prompts = seeds_by_prompt(table)
    labels = wording.labels(table)
    steps = [0, *table.steps]
    stride = commands.further(table)
    resumes = {run.name: commands.resume(run, stride) for run in table.runs}

    def add(path: Path | None) -> int:
        return -1 if path is None else pictures.add(path)

    def content(run: RecordedRun, step: int) -> dict[str, Any]:
        """A cell as the script needs it; -1 stands for a missing picture."""
        cell = table.cells[run.name, step] if step else CorridorCell(run.name, 0, "base", verdict=_BASE)
        rows = [[Place(run.name, step, prompt, seed) for seed in seeds] for prompt, seeds in prompts.items()]
        maps = [[run.drift_map(step, place.prompt, place.seed) for place in row] for row in rows]
        return {
            "state": cell.state,
            "zone": cell.zone,
            "borderline": cell.borderline,
            "position": cell.position,
            "reason": wording.reason(cell),
            "commands": commands.of_cell(table, cell, resumes[run.name]) if step else {},
            "pictures": [[add(files.get(place)) for place in row] for row in rows],
            "maps": [[path and pictures.overlay(path) for path in row] for row in maps]
            if any(map(any, maps))
            else None,
        }

    cells = [[content(run, step) for step in steps] for run in table.runs]
    has_maps = any(cell["maps"] for row in cells for cell in row)

    def first_picture(run: int, step: int) -> str | None:
        places = (place for row in cells[run][step]["pictures"] for place in row if place >= 0)
        place = next(places, None)
        return None if place is None else pictures.uris[place]

    def tile(run: int, step: int) -> Tile:
        cell = table.cells[table.runs[run].name, steps[step]]
        chosen = cell == choice.cell
        note = wording.cell_note(cell)
        summary = wording.cell_summary(cell, labels[run], chosen)
        return Tile(cell, first_picture(run, step), note, summary, chosen)

    count = len(table.runs)
    drawn = sampled_runs(table, choice)
    others = curves(table, decides=False, shown=drawn)
    return {
        "title": table.title,
        "eyebrow": wording.extent(table),
        "lead": wording.lead(table, choice),
        "small_pictures": pictures.pixel_art,
        "steps": steps,
        "labels": labels,
        "named": bool(wording.shared_rates(table)),
        "tiles": [[tile(run, step) for step in range(1, len(steps))] for run in range(count)],
        "base_picture": first_picture(0, 0),
        "commands": commands.NAMES,
        "choice": choice,
        "choice_sentence": wording.choice_sentence(table, choice),
        "nothing_ran": wording.nothing_ran(table),
        "spreads": spreads(table),
        "shades": [shade(run, count) for run in range(count)],
        "drawn": drawn,
        "which_drawn": how_many(table, len(drawn)),
        "deciding": curves(table, decides=True, shown=drawn),
        "by_heart": [curve for curve in others if curve.has_beside],
        "explaining": [curve for curve in others if not curve.has_beside],
        "photos": photos(table),
        "instance_prompt": recipe.instance_prompt(table),
        "options": recipe.options(table),
        "differing": run_differences(table),
        "config_of": table.runs[0].name,
        "config": yaml.safe_dump(table.runs[0].config, sort_keys=False, allow_unicode=True),
        "prompts": prompts,
        "has_maps": has_maps,
        "provenance": recipe.provenance_of(table)
        if any(cell.zone for cell in table.cells.values())
        else None,
        "folder": table.folder.as_posix(),
        "linked": linked,
        "data": {
            "runs": [{"name": run.name, "label": labels[i]} for i, run in enumerate(table.runs)],
            "steps": steps,
            "prompts": [{"text": prompt, "seeds": seeds} for prompt, seeds in prompts.items()],
            "cells": cells,
            "pictures": pictures.uris,
            "pixel_art": pictures.pixel_art,
            "start": _start(table, choice),
        },
    }


def _start(table: CorridorTable, choice: Choice) -> list[int]:
    """The cell the page opens with: the chosen one, the last with pictures, or one that says what failed."""
    cells = list(table.cells.values())
    with_pictures = [cell for cell in reversed(cells) if cell.state in ("measured", "not measured")]
    failed = [cell for cell in cells if cell.state == "failed"]
    cell = next(filter(None, [choice.cell, *with_pictures, *failed]), None)
    if cell is None:
        return [0, 0]
    return [[run.name for run in table.runs].index(cell.run), table.steps.index(cell.step) + 1]
