"""Command lines: what a person writes as text arrives as written, whatever YAML would make of it."""

import json
import os
import re
import stat
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_loader
from jsonargparse.typing import register_type

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import check_file
from lightning_drift.common.numbers import shown
from lightning_drift.common.parser_reports import refusal
from lightning_drift.common.yaml_files import parse_yaml

PARSER_MODE = "lightning_drift"
"""jsonargparse's name for our way of reading YAML."""


class Text(str):
    """Text that is not to be read as YAML.

    jsonargparse reads each plain ``str`` as YAML before it looks at the type of an option. It leaves a
    subclass alone. Texts stay `Text` until the parsed values are handed to a class; `plain` makes them
    strings again.
    """


# Texts, and the names that are members of an enumeration too, as some classes of Lightning have by default.
yaml.SafeDumper.add_multi_representer(str, yaml.representer.SafeRepresenter.represent_str)
register_type(Text, serializer=Text, deserializer=Text)


def as_texts(value: Any) -> Any:
    """Plain values with each string in them, keys apart, as `Text`."""
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, dict):
        return {key: as_texts(item) for key, item in value.items()}
    return [as_texts(item) for item in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """The same values with strings in place of each `Text`."""
    if isinstance(value, Text):
        return str(value)
    if type(value) is dict:
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if type(value) is list else value


def _load(text: str) -> Any:
    try:
        return as_texts(parse_yaml(text))
    except UserError as error:
        raise yaml.YAMLError(error.message) from error


set_loader(PARSER_MODE, _load, exceptions=(yaml.YAMLError,))


@dataclass(frozen=True)
class TextOption:
    """What an option for text takes beside text.

    Attributes:
        none: ``null`` stands for no text.
        lists: A JSON list of texts, ``["a", "b"]``, is a list.
        mappings: A JSON object, ``{"day": ["a", "b"]}``, holds lists by name.
    """

    none: bool = False
    lists: bool = False
    mappings: bool = False

    @classmethod
    def of(cls, annotation: Any) -> "TextOption | None":
        """What an option of a type takes; None if it is not one for text."""
        parts = (
            set(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else {annotation}
        )
        origins = {get_origin(part) or part for part in parts}
        if str not in parts or origins & {int, float, bool}:
            return None
        return cls(type(None) in parts, list in origins, dict in origins)

    def read(self, word: str) -> str:
        """A word of the command line, as `Text` unless it stands for something else."""
        if self.none and word == "null":
            return word
        kinds = (list,) * self.lists + (dict,) * self.mappings
        if kinds and word[:1] in ("[", "{"):
            try:
                if isinstance(value := json.loads(word), kinds) and (value or isinstance(value, list)):
                    return word
            except (ValueError, RecursionError):
                pass  # it is text, such as [a:b:0.5]
        return Text(word)


def text_options(function: Callable[..., Any]) -> dict[str, TextOption]:
    """The parameters of a function or class that take text, by name."""
    hints = get_type_hints(
        getattr(function, "__init__", function) if isinstance(function, type) else function
    )
    found = {name: TextOption.of(hint) for name, hint in hints.items() if name != "return"}
    return {name: option for name, option in found.items() if option is not None}


def mark_texts(words: Iterable[str], find: Callable[[str], TextOption | None]) -> list[str]:
    """A command line whose values for text options are `Text`.

    Args:
        words: The command line. ``--option=value`` and ``--option value`` are one.
        find: Gives what an option takes, by its name without the hyphens; None for one that is not for text.

    Raises:
        UserError: A text is ``--``, which means something to every command line.
    """
    marked: list[str] = []
    words = list(words)
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if isinstance(word, Text):
            marked.append(word)
            continue
        name, has_value, value = word.partition("=")
        option = find(name[2:]) if name.startswith("--") else None
        if option is None:
            marked.append(word)
            continue
        if value == "--":
            raise UserError("two hyphens end the options; write this text in a configuration", name[2:])
        if not has_value:
            if position == len(words) or words[position].startswith("--"):
                marked.append(word)
                continue
            value = words[position]
            position += 1
        marked += [name, option.read(value)]
    return marked


def option_values(words: Iterable[str]) -> list[tuple[str, str]]:
    """The options of a command line with the value of each, those that are `Text` or configurations apart."""
    found: list[tuple[str, str]] = []
    words = list(words)
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, has_value, value = word.partition("=")
        if isinstance(word, Text) or not name.startswith("--") or name == "--config":
            continue
        value = value if has_value else "" if following.startswith("--") else following
        if value and not isinstance(value, Text):
            found.append((name[2:].removesuffix("+"), value))
    return found


def config_values(words: Sequence[str]) -> list[str]:
    """The configurations of a command line: ``-c FILE``, ``-cFILE``, ``--config FILE``, ``--config=FILE``."""
    values: list[str] = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, has_value, value = word.partition("=")
        if name in ("-c", "--config"):
            values.append(value if has_value else following)
        elif word.startswith("-c") and not word.startswith("--"):
            values.append(word[2:])
    return values


def _is_special(value: str) -> bool:
    """Whether a value is the name of a pipe, a device or a socket."""
    try:
        mode = os.stat(value).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class TextParser(ArgumentParser):
    """A parser that takes `Text` as a value wherever it stands, though it begin with a hyphen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"parser_mode": PARSER_MODE, "allow_abbrev": False}  # half a name is not an option's
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Parse a command line, each value of which was looked at first.

        Raises:
            UserError: A value names a pipe or a device, or holds more than can be read.
        """
        for name, value in option_values(sys.argv[1:] if args is None else args):
            self.check_value(name, value)
        return super().parse_args(args, *rest, **kwargs)

    def check_value(self, name: str, value: str) -> None:
        """Refuse what reading would not end with: jsonargparse opens what a value names, and unfolds aliases.

        Raises:
            UserError: A value names a pipe or a device, or refers to itself or to too much.
        """
        if _is_special(value):
            check_file(Path(value), "configuration", name)
        if re.fullmatch(r"[-+]?[0-9_]{310,}", value):
            raise UserError(f"{shown(value)} is longer than a number can be", name)
        if set("*[{") & set(value):
            try:
                parse_yaml(value)
            except UserError as error:
                if not error.message.startswith("is not YAML:"):
                    raise UserError(f"{shown(value)} {error.message}", name) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report a bad option in a sentence instead of the usage.

        Raises:
            UserError: Always.
        """
        cause = ex if ex is not None else sys.exc_info()[1]
        raise refusal(message, cause, [action.dest for action in self._actions], self.prog) from ex

    def _parse_optional(self, arg_string: str) -> Any:
        return None if isinstance(arg_string, Text) else super()._parse_optional(arg_string)  # type: ignore[no-untyped-call]
