"""What follows when all prints are there: the proof page, and the labelled sheets of proofs."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.text import printable
from lightning_drift.images.decode import UndecodableError, decode
from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.infotext import settings_of
from lightning_drift.pages.thumbnails import data_uri
from lightning_drift.prints.command_words import PROOFS, print_command, proof_command
from lightning_drift.prints.images import UpscaleRequest
from lightning_drift.prints.proof_page import (
    PAGE,
    Item,
    ShownCell,
    ShownSheet,
    ShownView,
    is_foreign,
    write_page,
)
from lightning_drift.prints.proof_pictures import ProofPictures
from lightning_drift.prints.proof_sheets import (
    ProofSheet,
    found_sheet,
    proof_files,
    sheet_of,
    write_sheet,
)
from lightning_drift.prints.proof_views import views_of
from lightning_drift.prints.sizes import Size

_THUMBNAIL = 160


class ProofReport(Callback):
    """Writes the proof page of prints, and of proofs their sheets too, in the first process.

    Args:
        settings: Whether the module takes the settings that proofs vary, so that a proof sheet can be made.
    """

    def __init__(self, settings: bool = False) -> None:
        self._settings = settings

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything; nothing for a share, whose pictures are not all there are.

        Raises:
            UserError: A file cannot be written, for example because the disk is full.
        """
        data: Any = getattr(trainer, "datamodule", None)
        sheets = getattr(data, "sheets", None)
        if getattr(data, "share", None) is not None or not (getattr(data, "page", False) or sheets):
            return
        trainer.strategy.barrier("prints")
        if not trainer.is_global_zero:
            return
        writer = next(c for c in trainer.callbacks if isinstance(c, ImageWriter))  # type: ignore[attr-defined]
        writing = _Writing(pl_module, writer, data.words)
        try:
            items = writing.proofs(sheets) if sheets else writing.prints(data.requests, self._settings)
            if data.page and writing.may_write():
                writing.page(items)
            elif sheets:
                deque(items, maxlen=0)  # on the way to a page the sheets are written
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"cannot write {error.filename or writer.output_dir}: {reason}. All pictures are there; the "
                "same command goes on"
            ) from error


class _Writing:
    """One page on its way, and the pictures that it holds."""

    def __init__(self, module: Any, writer: ImageWriter, words: Any) -> None:
        self._module, self._writer, self._words = module, writer, words
        self._folder = writer.output_dir
        self._pictures = ProofPictures(self._folder / PAGE)

    def may_write(self) -> bool:
        """Whether nothing of another's lies at the page's place; a notice says so where it does."""
        page = self._folder / PAGE
        if foreign := is_foreign(page):
            notice(f"{page} is no page of lightning-drift's prints; it stays, and no page is written")
        return not foreign

    def page(self, items: Iterator[Item]) -> None:
        """Write the page."""
        page = self._folder / PAGE
        shown = list(items)
        if not shown:
            return
        write_page(page, shown, self._pictures.addresses(), self._pictures.linked)
        print("\n" + printable(f"Look at them: {page}"))

    def prints(self, requests: Iterable[UpscaleRequest], settings: bool) -> Iterator[Item]:
        """The items of prints, with the proof sheets that lie in their folder of proofs."""
        proofs = proof_files(self._folder / PROOFS)
        for request in tqdm(list(requests), desc="proof page", leave=False, disable=None):
            request.look()
            path, text = self._file(request, self._module.describe)
            if path is None or request.size is None:
                continue
            stage1, _ = self._file(request, getattr(self._module, "describe_beside", lambda _: None))
            try:
                size, views = views_of(request, path, stage1)
                small = data_uri(views[-1].make(), _THUMBNAIL)
                shown = [
                    ShownView(
                        view.name,
                        self._pictures.add(
                            f"{request.name}_{view.name}", f"{text}\n{view.name}", max(view.size), view.make
                        ),
                        view.size,
                        view.part,
                    )
                    for view in views
                ]
            except UndecodableError as error:
                notice(f"{path} or what it was made of {error}; the page is without it")
                continue
            sheet = found_sheet(request, proofs.get(request.name, ()))
            commands = {}
            if self._words is not None:
                commands["Make this print again"] = print_command(self._words, request.path)
                if settings:
                    what = "Make its proof sheet" if sheet is None else "Make another proof sheet"
                    commands[what] = proof_command(self._words, request.path, self._folder)
            facts = _facts(request, text, size, settings_of(text))
            yield Item(request.name, small, size, shown, facts, commands, self._sheet(request, sheet))

    def proofs(self, sheets: Iterable[tuple[UpscaleRequest, list[UpscaleRequest]]]) -> Iterator[Item]:
        """The items of proofs; on the way their labelled sheets are written."""
        for request, cells in sheets:
            found = []
            for cell in cells:
                cell.look()
                path, text = self._file(cell, self._module.describe)
                if path is not None:
                    found.append((path, text))
            sheet = sheet_of(found)
            if sheet is None:
                continue
            path = self._folder / f"{request.name}_proof.png"
            if not write_sheet(path, sheet, f"{printable(request.name)}, {_about(sheet)}"):
                notice(f"{path} is no sheet of lightning-drift; it stays, and no sheet is written")
            shown = self._sheet(request, sheet)
            if shown is None:
                continue
            middle = decode(sheet.cells[len(sheet.cells) // 2].path).image
            facts = _facts(cells[0], sheet.cells[0].text, None, sheet.settings)
            yield Item(request.name, data_uri(middle, _THUMBNAIL), middle.size, (), facts, {}, shown)

    def _file(
        self, request: UpscaleRequest, describe: Callable[[UpscaleRequest], Any]
    ) -> tuple[Path | None, str]:
        """A picture's file, None where it is not there, and its parameters."""
        described = describe(request)
        if described is None:
            return None, ""
        path, is_there = self._writer.path(*described)
        return path if is_there else None, described[1]["parameters"]

    def _sheet(self, request: UpscaleRequest, sheet: ProofSheet | None) -> ShownSheet | None:
        """A sheet as the page shows it; None without cells that can be read."""
        cells = []
        for cell in sheet.cells if sheet else ():
            try:
                image = decode(cell.path).image
            except UndecodableError:
                continue
            assert sheet is not None
            settings = {"control_scale": cell.control_scale, "s_cfg": cell.s_cfg}
            command = "" if self._words is None else print_command(self._words, request.path, settings)
            picture = self._pictures.add(cell.path.stem, cell.text, max(image.size), lambda: image)  # noqa: B023
            row, column = sheet.rows.index(cell.control_scale), sheet.columns.index(cell.s_cfg)
            cells.append(ShownCell(row, column, picture, image.size, command))
        return ShownSheet(sheet.rows, sheet.columns, cells, _about(sheet)) if sheet and cells else None


def _about(sheet: ProofSheet) -> str:
    """Where a sheet lies in the print, and how it was made."""
    settings = sheet.settings
    match = re.fullmatch(
        r"(\d{1,5}) pixels at ([01](?:\.\d{1,6})?) ([01](?:\.\d{1,6})?) (\d{1,3})",
        f"{settings.get('Detail')} {settings.get('Steps')}",
    )
    if match is None:
        return "A part of the print"
    across, down = (f"{float(place):.0%}" for place in match.groups()[1:3])
    return f"{match[1]} pixels a side, {across} from the left and {down} from the top, {match[4]} steps"


def _facts(
    request: UpscaleRequest, text: str, size: Size | None, settings: Mapping[str, str]
) -> dict[str, str]:
    """How large a print is, and all that decides its pixels."""
    facts: dict[str, str] = {}
    if request.paper is not None:
        facts["On paper"] = f"{request.paper.text} at {request.paper.dpi:g} dpi"
    if size is not None:
        facts["Print"] = f"{size[0]:,} × {size[1]:,} pixels"
    if request.size is not None:
        facts["Source"] = f"{request.size[0]:,} × {request.size[1]:,} pixels"
    prompt, _, negative = text.rpartition("\n")[0].partition("\nNegative prompt: ")
    facts |= {"Prompt": prompt, "Negative prompt": negative}
    facts |= {name: value for name, value in settings.items() if name not in ("Print", "DPI")}
    return {name: value for name, value in facts.items() if value}
