"""The proof page: one HTML file about a folder of prints, or of proofs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_drift.common.atomic import atomic_write
from lightning_drift.pages.page import render
from lightning_drift.prints.proof_pictures import FOLDER
from lightning_drift.prints.sizes import Box, Size

PAGE = "proof.html"
"""The page's name in a folder of prints."""


@dataclass(frozen=True)
class ShownView:
    """A view of a print on the page.

    Attributes:
        name: What it is.
        picture: Its position among the page's pictures.
        size: Its width and height in pixels.
        part: The part of it that shows what the print shows, in its pixels.
    """

    name: str
    picture: int
    size: Size
    part: Box


@dataclass(frozen=True)
class ShownCell:
    """A cell of a proof sheet on the page.

    Attributes:
        row: Position of its control scale among the sheet's.
        column: Position of its guidance scale.
        picture: Its position among the page's pictures.
        size: Its width and height in pixels.
        command: What prints it in full; empty where that is not known.
    """

    row: int
    column: int
    picture: int
    size: Size
    command: str = ""


@dataclass(frozen=True)
class ShownSheet:
    """A proof sheet on the page.

    Attributes:
        rows: Its control scales.
        columns: Its guidance scales.
        cells: Those that are there.
        about: Where it lies in the print and how it was made, in words.
    """

    rows: list[float]
    columns: list[float]
    cells: list[ShownCell]
    about: str


@dataclass(frozen=True)
class Item:
    """One print on the page, or one picture's proofs.

    Attributes:
        name: Its name.
        small: What the list shows of it, as a data URI.
        size: Width and height of the print in pixels.
        views: What there is to compare; empty for proofs alone.
        facts: How large it is, and how it was made.
        commands: What can be copied, by what it does.
        sheet: Its proof sheet, where there is one.
    """

    name: str
    small: str
    size: Size
    views: Sequence[ShownView] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    sheet: ShownSheet | None = None


def is_foreign(page: Path) -> bool:
    """Whether something lies at a page's place that is none of ours."""
    if not os.path.lexists(page):
        return False
    try:
        with open(page, "rb") as file:
            return b": the prints</title>" not in file.read(64 * 1024)
    except OSError:
        return True


def write_page(page: Path, items: Sequence[Item], pictures: Sequence[str], linked: bool) -> None:
    """Write the page.

    Args:
        page: The HTML file.
        items: What is on it, at least one.
        pictures: The address of each picture that the items name.
        linked: Whether these are files beside the page.

    Raises:
        OSError: It cannot be written.
    """
    proofs = not any(item.views for item in items)
    text = render(
        "prints/proof.html",
        title=page.resolve().parent.name,
        eyebrow="Proof sheets" if proofs else "Prints",
        lead=_lead(items, proofs),
        small_pictures=False,
        linked=FOLDER if linked else None,
        data={"items": [_plain(item) for item in items], "pictures": list(pictures)},
    )
    with atomic_write(page) as file:
        file.write(text.encode())


def _plain(item: Item) -> dict[str, Any]:
    sheet = item.sheet
    return {
        "name": item.name,
        "small": item.small,
        "size": item.size,
        "views": [vars(view) for view in item.views],
        "facts": list(item.facts.items()),
        "commands": list(item.commands.items()),
        "sheet": sheet and {**vars(sheet), "cells": [vars(cell) for cell in sheet.cells]},
    }


def _lead(items: Sequence[Item], proofs: bool) -> str:
    count = len(items)
    if proofs:
        what = "one picture" if count == 1 else f"{count:,} pictures"
        return f"A part of {what} at several settings. Pick one, and copy the command that prints it in full."
    sheets = sum(item.sheet is not None for item in items)
    what = "One print" if count == 1 else f"{count:,} prints"
    beside = (
        "" if not sheets else ", one with a proof sheet" if sheets == 1 else f", {sheets:,} with proof sheets"
    )
    return f"{what}{beside}. Any two views of one lie under the slider."
