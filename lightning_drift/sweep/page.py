"""The ranking page: one HTML file that shows the pictures beside it, sorted and filtered by what is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_drift.common.atomic import atomic_write
from lightning_drift.images.decode import decode
from lightning_drift.pages.page import render
from lightning_drift.pages.thumbnails import PIXEL_ART
from lightning_drift.sweep.index import FILES, Index
from lightning_drift.sweep.measure import PICTURE_MEASURES
from lightning_drift.sweep.summary import tables

PAGE = "sweep.html"
"""The page's name in a sweep's folder."""


@dataclass(frozen=True)
class PictureAddresses:
    """Where the page finds the pictures of an index.

    Attributes:
        size: Width and height of the first one.
        addresses: The address of each of the index's files.
        small: The address of what is shown small, of the files where that is another one.
    """

    size: tuple[int, int]
    addresses: Mapping[str, str]
    small: Mapping[str, str]


def sweep_page(
    index: Index,
    pictures: PictureAddresses,
    title: str,
    facts: Mapping[str, Any] | None,
    folder: Path,
    missing: int = 0,
) -> str:
    """The page of an index as HTML.

    Args:
        index: The index, with at least one row; its numbers are numbers.
        pictures: Where its pictures are.
        title: The page's title.
        facts: What a command that makes one of the pictures must say, beside the row's own parameters; None
            where that is not known, and then no such command is shown.
        folder: The folder of the index, as commands name it.
        missing: How many rows were left out, as their pictures are not there.
    """
    data = {
        "parameters": [{"name": name, **_coded(index, name)} for name in index.parameters],
        "measures": [
            {"name": name, "about": PICTURE_MEASURES[name], "values": [row.get(name) for row in index.rows]}
            for name in index.measures
        ],
        "varied": index.varied,
        **{
            name: [pictures.addresses[row[name]] if row.get(name) else None for row in index.rows]
            for name in FILES
        },
        "names": [row["file"] for row in index.rows],
        "small": {pictures.addresses[name]: small for name, small in pictures.small.items()},
        "folder": folder.as_posix(),
        "facts": None if facts is None else dict(facts),
        "size": pictures.size,
    }
    return render(
        "sweep/page.html",
        title=title,
        eyebrow="Sweep",
        lead=_lead(index),
        small_pictures=max(pictures.size) <= PIXEL_ART,
        tables=tables(index),
        missing=missing,
        data=data,
    )


def write_page(
    page: Path, index: Index, thumbnails: Mapping[str, str], title: str, facts: Mapping[str, Any]
) -> None:
    """Write the page of an index.

    Args:
        page: The HTML file; pictures are looked for beside it.
        index: The index.
        thumbnails: What is shown small of each of its files.
        title: The page's title.
        facts: What a command that makes one of the pictures must say, beside the row's own parameters.

    Raises:
        OSError: It cannot be written.
        UndecodableError: The first picture cannot be read.
    """
    pictures = PictureAddresses(
        size=decode(page.parent / index.rows[0]["file"]).image.size,
        addresses={name: quote(name) for name in (*index.files, *thumbnails)},
        small={name: quote(small) for name, small in thumbnails.items() if name != small},
    )
    text = sweep_page(index, pictures, title, facts, page.parent)
    with atomic_write(page) as file:
        file.write(text.encode())


def _coded(index: Index, name: str) -> dict[str, list[Any]]:
    """A column's different values and each row's position among them; -1 where it has none."""
    values = index.values(name)
    if all(isinstance(value, int | float) for value in values):
        values = sorted(values)
    place = {value: position for position, value in enumerate(values)}
    return {"values": values, "rows": [place.get(row.get(name), -1) for row in index.rows]}


def _lead(index: Index) -> str:
    count = f"{len(index.rows):,} pictures" if len(index.rows) != 1 else "1 picture"
    counts = [
        f"{len(index.values(name))} {plural}"
        for name, plural in (
            ("prompt", "prompts"),
            ("seed", "seeds"),
            ("guidance_scale", "guidance scales"),
            ("num_inference_steps", "step counts"),
            ("checkpoint", "checkpoints"),
            ("drift", "drifts"),
            ("sampling_drift", "sampling drifts"),
        )
        if name in index.varied
    ]
    return f"{count}: {', '.join(counts)}." if counts else f"{count}."
