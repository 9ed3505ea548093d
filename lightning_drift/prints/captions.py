"""Captions of many pictures in one file: JSON lines, CSV or the JSON of kohya's trainers."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import read_text
from lightning_drift.common.numbers import shown
from lightning_drift.common.prompt_lists import check_text
from lightning_drift.common.text import listed, reason

OPTION = "data.captions"
NAME, TEXT = "file_name", "text"
"""The columns, as the datasets library calls them in ``metadata.jsonl`` and ``metadata.csv``."""

Entry = tuple[str, str, str]
"""What a caption is of, its text, and where it stands, such as ``line 3``."""


def read_caption_file(path: Path, images: Sequence[Path]) -> dict[Path, str]:
    """The captions of images; a notice names those of images that are not there.

    Args:
        path: UTF-8 text of at most 16 MiB. ``.jsonl``: an object a line with ``file_name`` and ``text``.
            ``.csv``: with these columns. ``.json``: an object of ``name: text`` or ``name: {"caption":
            text}``. Other columns and keys are passed over.
        images: The images. One is named by its path, absolute or from the file's folder, with or without its
            ending; or else by its file name or stem alone, in whatever folder.

    Returns:
        The caption of each image that has one, its white space made single spaces.

    Raises:
        UserError: The file cannot be read, is of another kind or damaged, or gives an image two captions; the
            message says in which line.
    """
    readers: dict[str, Callable[[str, Path], Iterator[Entry]]] = {
        ".jsonl": _json_lines, ".csv": _table, ".json": _json_object,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is not a file of captions; give one in {listed(readers)}", OPTION)
    entries: dict[str, Entry] = {}
    for name, text, place in reader(read_text(path, "captions", OPTION), path):
        if name in entries:
            raise UserError(f"{path}: {place} names {shown(name)} again, as {entries[name][2]} does", OPTION)
        entries[name] = (name, " ".join(check_text(text, OPTION).split()), place)
    if not entries:
        raise UserError(f"{path} holds no captions", OPTION)
    captions, used = _matched(path, entries.values(), images)
    if absent := [name for name in entries if name not in used]:
        notice(f"{path} has captions of {len(absent)} images that are not there: {listed(absent)}")
    return captions


def _matched(
    path: Path, entries: Iterable[Entry], images: Sequence[Path]
) -> tuple[dict[Path, str], set[str]]:
    """The captions of the images, and the names that were used; a path comes before a bare name."""
    folder = os.path.abspath(path.parent)
    by_path: dict[str, list[Entry]] = {}
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        given = entry[0].replace("\\", "/")
        by_path.setdefault(os.path.normpath(os.path.join(folder, given)), []).append(entry)
        by_name.setdefault(given.rpartition("/")[2], []).append(entry)
    captions, used = {}, set()
    alike: dict[str, Path] = {}
    for image in images:
        whole, bare = os.path.abspath(image), os.path.splitext(os.path.abspath(image))[0]
        found = [*by_path.get(whole, []), *by_path.get(bare, [])]
        found = found or [*by_name.get(image.name, []), *by_name.get(image.stem, [])]
        if len(found) > 1:
            raise UserError(
                f"{path} has several captions of {image}: {found[0][2]} and {found[1][2]}", OPTION
            )
        for name, text, place in found:
            if name in alike:
                raise UserError(
                    f"{path}: {place} names {shown(name)}, which is both {alike[name]} and {image}", OPTION
                )
            alike[name], captions[image] = image, text
            used.add(name)
    return captions, used


def _json_lines(text: str, path: Path) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"line {number}"
            row = _parsed(line, path, place)
            if not isinstance(row, dict):
                raise UserError(f"{path}: {place} is no JSON object but {shown(row)}", OPTION)
            yield _row(row, path, place)


def _table(text: str, path: Path) -> Iterator[Entry]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(rows, [])
        for row in rows:
            if not row:
                continue
            place = f"line {rows.line_num}"
            if len(row) != len(columns):
                raise UserError(
                    f"{path}: {place} has {len(row)} cells instead of {len(columns)}; a text with a comma "
                    "stands in quotation marks",
                    OPTION,
                )
            yield _row(dict(zip(columns, row, strict=True)), path, place)
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num} is not CSV ({reason(error)})", OPTION) from error


def _row(row: Mapping[str, Any], path: Path, place: str) -> Entry:
    if lacking := [column for column in (NAME, TEXT) if column not in row]:
        raise UserError(
            f"{path}: {place} lacks {' and '.join(lacking)}; it has the columns {listed(row) or 'none'}",
            OPTION,
        )
    return _entry(row[NAME], row[TEXT], path, place)


def _json_object(text: str, path: Path) -> Iterator[Entry]:
    whole = _parsed(text, path, "it")
    if not isinstance(whole, _Pairs):
        raise UserError(f"{path} holds no JSON object but {shown(whole)}", OPTION)
    for number, (name, value) in enumerate(whole.pairs, 1):
        place = f"entry {number}"
        if isinstance(value, dict):
            if "caption" not in value:
                raise UserError(
                    f"{path}: {place}, {shown(name)}, lacks caption; it has {listed(value) or 'nothing'}",
                    OPTION,
                )
            value = value["caption"]
        yield _entry(name, value, path, place)


def _entry(name: Any, text: Any, path: Path, place: str) -> Entry:
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{path}: {place} names no image but {shown(name)}", OPTION)
    if not isinstance(text, str):
        raise UserError(f"{path}: {place} has no text for {shown(name)} but {shown(text)}", OPTION)
    return name.strip(), text, place


class _Pairs(dict[str, Any]):
    """A JSON object that remembers its pairs, since a later one of the same name would hide the first."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _parsed(text: str, path: Path, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}" if place == "it" else place
        raise UserError(f"{path}: {line} is not valid JSON ({error.msg})", OPTION) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; a thousand brackets
        raise UserError(f"{path}: {place} is not valid JSON ({reason(error)})", OPTION) from error
