"""Files and folders that a user names: where a path leads, whether it can be read and written to."""

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from lightning_drift.common.errors import UserError

MAX_TEXT_BYTES = 16 * 2**20
"""What a text file of a user may hold; a larger one is not what it was taken for."""

MAX_PATH, MAX_PART = 4096, 255
"""What a path and one name in it may take, in bytes, on Linux and most other systems."""

MAX_DEPTH = 200
"""How many folders a path may lead through; each is made and looked at in turn."""


def user_path(value: str | os.PathLike[str], option: str = "") -> Path:
    """A path as a user writes it: ``~`` and ``~name`` at its beginning are home folders.

    Every path from a configuration, a command line or a run's record is read here, so that one text means one
    place everywhere.

    Raises:
        UserError: It is empty, holds a NUL character, is an address such as ``s3://…``, or does not fit the
            system's file names.
    """
    text = os.fspath(value)
    if not text.strip():
        raise UserError("the path is empty", option)
    if "\0" in text:
        raise UserError(f"{text!r} holds a NUL character, which no path can", option)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise UserError(f"{text!r} is an address and not a path; give a local file or folder", option)
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{text!r} is no path on this system, whose encoding lacks a character", option
        ) from error
    path = Path(os.path.expanduser(text))
    if len(text) > MAX_PATH or any(len(os.fsencode(part)) > MAX_PART for part in path.parts):
        raise UserError(f"{text[:60]!r}… is longer than a file's name can be", option)
    if len(path.parts) > MAX_DEPTH:
        raise UserError(f"{text[:60]!r}… is more than {MAX_DEPTH} folders deep", option)
    return path


def check_file(path: Path, what: str, option: str = "") -> None:
    """Refuse what is no regular file that can be read, before it is opened: a pipe would wait for ever.

    Args:
        path: The file.
        what: What it is taken for, such as ``prompt file``.
        option: The option that names it.

    Raises:
        UserError: It is missing, a folder, a pipe or a device, or may not be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
            raise UserError(f"the {what} {path} is {kind} and no file", option)
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}", option) from error


def read_text(path: Path, what: str, option: str = "") -> str:
    """Read a text file of a user: UTF-8 with or without a byte order mark, whatever the system's locale.

    Raises:
        UserError: It is no regular file, cannot be read, is not UTF-8, or holds more than 16 MiB.
    """
    check_file(path, what, option)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}", option) from error
    if len(data) > MAX_TEXT_BYTES:
        raise UserError(f"the {what} {path} holds more than {MAX_TEXT_BYTES // 2**20} MiB", option)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} {path} is not UTF-8 text; save it as UTF-8", option) from error


def read_json(path: Path, what: str, option: str = "") -> dict[str, object]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: It cannot be read, is not JSON, or holds something else.
    """
    try:
        value = json.loads(read_text(path, what, option))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the {what} {path} is not valid JSON ({error})", option) from error
    if not isinstance(value, dict):
        raise UserError(f"the {what} {path} is damaged: it holds no JSON object", option)
    return value


def check_writable(folder: Path, option: str = "") -> None:
    """Try to write into a folder, or into the nearest one above it that is there; nothing stays behind.

    Commands call this before their first step for each folder they will write to.

    Raises:
        UserError: It is a file, may not be written to, or its disk is full.
    """
    place = folder.absolute()
    try:
        while not os.path.lexists(place):
            if place == place.parent:
                break
            place = place.parent
        if not place.is_dir():
            raise UserError(f"cannot write to {folder}: {place} is a file and no folder", option)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise UserError(f"cannot write to {folder}: {reason}", option) from error


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder lies or will lie."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
