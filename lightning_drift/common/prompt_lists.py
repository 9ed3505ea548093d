"""Prompts as people give them: a string, a list, or a text file with one per line; file names of prompts."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning_drift.assets import PROMPTS
from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_text, user_path
from lightning_drift.common.numbers import shown

SLUG_LENGTH = 72
SLUG_BYTES = 216
"""File systems take 255 bytes, and a seed, a digest and an ending follow; 72 characters of 3 bytes fit."""


def find_list(name: str) -> Path:
    """The file of a list: what lies at that path, or else the list of that name that comes with the package.

    >>> find_list("artists.txt").parent.name
    'prompts'
    """
    path = user_path(name)
    shipped = PROMPTS / name
    return shipped if path.name == name and not path.exists() and shipped.is_file() else path


def is_prompt_file(value: object) -> bool:
    """Whether prompts are given as the name of a text file."""
    return isinstance(value, str) and value.lower().endswith(".txt")


def check_text(text: str, option: str) -> str:
    """Refuse text that no tokenizer or file can hold: bytes of a command line that are not UTF-8.

    Raises:
        UserError: It is such text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{shown(text)} holds bytes that are not UTF-8 text", option) from error
    return text


def read_prompts(value: str | Sequence[str], option: str) -> list[str]:
    """Read prompts.

    Args:
        value: A list of prompts; or one string, which is one prompt (its commas kept), unless it ends in
            ``.txt``: then it names a UTF-8 text file with one prompt per line (empty lines and lines that
            begin with ``#`` are skipped), or a list that comes with the package, such as ``artists.txt``.
        option: The option's name, for the error message.

    Returns:
        The prompts in the order given, without repetitions. The empty string is a prompt like any other.

    Raises:
        UserError: If the file is missing, is not UTF-8 text or holds no prompt, or the list is empty or holds
            something that is no text.
    """
    if not isinstance(value, str):
        if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable):
            raise UserError(f"{shown(value)} is neither a prompt nor a list of prompts", option)
        prompts = list(value)
        if odd := [prompt for prompt in prompts if not isinstance(prompt, str)]:
            raise UserError(
                f"the list holds {shown(odd[0])}, which is no prompt; put it in quotes if it is one",
                option,
            )
        if not prompts:
            raise UserError("the list of prompts is empty", option)
        return list(dict.fromkeys(check_text(prompt, option) for prompt in prompts))
    if not is_prompt_file(value):
        return [check_text(value, option)]
    lines = read_text(find_list(value), "prompt file", option).splitlines()
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))
    if not prompts:
        raise UserError(f"the prompt file {value} holds no prompt", option)
    return prompts


def slug(prompt: str) -> str:
    """A file name for a prompt: lower-case words joined by hyphens, at most 72 characters and 216 bytes.

    A prompt that is cut short, leaves no character, or has one that the system's file names lack ends in 6
    hexadecimal digits of its SHA-256, so that long prompts which begin alike keep apart.

    >>> slug("Monumental, dramatic")
    'monumental-dramatic'
    """
    words = unicodedata.normalize("NFKC", prompt).casefold()
    name = re.sub(r"[^\w]+", "-", words).strip("-_")
    try:
        os.fsencode(name)
        whole = True
    except UnicodeEncodeError:  # a system whose file names are ASCII
        name, whole = re.sub(r"[^\w]+", "-", name.encode("ascii", "replace").decode()).strip("-_"), False
    if whole and name and len(name) <= SLUG_LENGTH and len(name.encode()) <= SLUG_BYTES:
        return name
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    start = name[:SLUG_LENGTH].encode()[:SLUG_BYTES].decode(errors="ignore")
    return f"{start.rstrip('-_') or ('empty' if not prompt.strip() else 'prompt')}-{digest}"
