"""The report about a corridor: the page, and a contact sheet beside it."""

from pathlib import Path

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import notice
from lightning_drift.corridor.choice import choose
from lightning_drift.corridor.overview import overview
from lightning_drift.corridor.page import corridor_page
from lightning_drift.corridor.read import read
from lightning_drift.images.png import save_png


def write_report(folder: Path, page: Path, own: bool = False) -> None:
    """Write the page about the runs in a folder and the contact sheet beside it.

    Args:
        folder: A corridor's folder, a folder of several runs, or one run's.
        page: The HTML file; the sheet is the same name in ``.png``.
        own: Whether the caller made the runs. A page of somebody else's folder holds nothing that lies
            outside it: neither photos that a configuration names, nor what links lead to.

    Raises:
        UserError: There is no run in the folder.
        OSError: A file cannot be written.
    """
    table = read(folder, own)
    for remark in table.remarks:
        notice(remark)
    text = corridor_page(table, choose(table))
    with atomic_write(page) as file:
        file.write(text.encode())
    save_png(page.with_suffix(".png"), overview(table))
