"""The report about a corridor: the page, and a contact sheet beside it."""

import os
from pathlib import Path

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError, notice
from lightning_drift.corridor.choice import choose
from lightning_drift.corridor.overview import overview
from lightning_drift.corridor.page import corridor_page, has_linked_pictures
from lightning_drift.corridor.read import read
from lightning_drift.corridor.sampled_runs import how_many, sampled_runs
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import is_made_by, write_png

_SHEET_BY = "lightning-drift corridor sheet"


def write_report(folder: Path, page: Path, own: bool = False) -> None:
    """Write the page about the runs in a folder and the contact sheet beside it.

    Args:
        folder: A corridor's folder, a folder of several runs, or one run's.
        page: The HTML file; the sheet is the same name in ``.png``.
        own: Whether the caller made the runs. A page of somebody else's folder holds nothing that lies
            outside it: neither photos that a configuration names, nor what links lead to.

    Raises:
        UserError: There is no run in the folder, or what lies at the place is no page of a corridor.
        OSError: A file cannot be written.
    """
    _refuse_foreign(page)
    table = read(folder, own)
    for remark in table.remarks:
        notice(remark)
    choice = choose(table)
    text = corridor_page(table, choice, page.parent)
    with atomic_write(page) as file:
        file.write(text.encode())
    sheet, rows = page.with_suffix(".png"), sampled_runs(table, choice)
    write_png(sheet, Picture(None, page.stem, overview(table, rows), {"Software": _SHEET_BY}))
    if has_linked_pictures(table):
        notice(f"{page} loads its pictures from the runs' folders, as they are too many for one file")
    if told := how_many(table, len(rows)):
        notice(f"{sheet} and the curves of the page show {told}; its map shows all")


def _refuse_foreign(page: Path) -> None:
    """Refuse to write over anything but an earlier page and its sheet.

    Raises:
        UserError: Something else lies there.
    """
    sheet = page.with_suffix(".png")
    if sheet == page:
        raise UserError(f"{page} is a picture's name; give one that ends in .html", "to")
    if page.is_file():
        with open(page, "rb") as file:
            head = file.read(64 * 1024)
        if b": the corridor</title>" not in head:
            raise UserError(f"{page} is no page of a corridor; choose another name", "to")
    elif os.path.lexists(page):
        raise UserError(f"{page} is no file; choose another name", "to")
    elif os.path.lexists(sheet) and not is_made_by(sheet, _SHEET_BY):
        raise UserError(f"{sheet} exists, and the page's contact sheet would replace it", "to")
