"""Thresholds in a small YAML file, as ``clip_drift.thresholds`` takes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.common.text import printable
from lightning_drift.common.yaml_files import read_yaml_section
from lightning_drift.drift.verdict import Thresholds

_HEAD = "# Thresholds of clip_drift, found by lightning-drift corridor label"


def read_thresholds(path: Path, option: str = "clip_drift.thresholds") -> dict[str, Any]:
    """The thresholds that a file names, by name; those that it leaves out are not among them.

    Args:
        path: A YAML file that holds fields of `Thresholds`.
        option: The option that names it, for messages.

    Raises:
        UserError: It cannot be read, or holds anything but thresholds in their bounds.
    """
    values = read_yaml_section(path, "thresholds file", option)
    names = [field.name for field in fields(Thresholds)]
    if unknown := [name for name in values if name not in names]:
        raise UserError(
            f"{shown(unknown[0])} in {path} is no threshold; there are {', '.join(names)}", option
        )
    for name, value in values.items():
        if name != "source" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{shown(value)} in {path} is no number", f"{option}.{name}")
    try:
        Thresholds(**values)
    except UserError as error:
        raise UserError(f"{error.message} ({path})", error.option) from error
    return values


def write_thresholds(path: Path, thresholds: Thresholds, remarks: Sequence[str]) -> None:
    """Write all thresholds, with remarks as comments; `read_thresholds` gives them back.

    Args:
        path: The file; an earlier one of this program is replaced.
        thresholds: What to write.
        remarks: Lines for people.

    Raises:
        UserError: Something else lies there.
        OSError: It cannot be written.
    """
    refuse_foreign(path)
    comments = [_HEAD, *(f"# {printable(remark)}" for remark in remarks)]
    text = yaml.safe_dump(asdict(thresholds), sort_keys=False, allow_unicode=True, width=100)
    with atomic_write(path) as file:
        file.write("\n".join([*comments, text]).encode())


def refuse_foreign(path: Path) -> None:
    """Refuse a place where something lies that `write_thresholds` did not write.

    Raises:
        UserError: Something does.
    """
    if not os.path.lexists(path):
        return
    head = b""
    if path.is_file():
        with open(path, "rb") as file:
            head = file.read(len(_HEAD))
    if head != _HEAD.encode():
        raise UserError(f"{path} was not written by corridor label; give another name", "to")
