"""What jsonargparse reports of a bad option, in a sentence: the option, its value, and what it may be."""

import difflib
import re
from collections.abc import Iterable, Iterator

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "a section of options by name",
    "Mapping": "a section of options by name",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "Iterable": "a list",
    "Sequence": "a list",
    "NoneType": "null",
}
# What jsonargparse says of its own types around the sentence that tells what is wrong.
_BOILERPLATE = re.compile(
    r"Does not validate|Subtypes|Errors:|Expected a NoneType|Given value|Problem with given class_path"
    r"|.*a string or stream input is required|Subclass types expect one of|an? (class path|dict with)"
    r"|Expected a path but|Unable to load config"
)
_LONGEST = 300
"""Characters of a report; the values that people give can be longer than anyone reads."""


class ParserRefusalError(UserError):
    """A value that the parser refuses.

    Args:
        message: What is wrong, in our words.
        option: The option.
        report: What jsonargparse says of it.
    """

    def __init__(self, message: str, option: str, report: str) -> None:
        super().__init__(message, option)
        self.report = report


def refusal(report: str, error: BaseException | None, options: Iterable[str], program: str) -> UserError:
    """The error that a report of jsonargparse stands for.

    Args:
        report: What it says, over several lines.
        error: The exception that the report is of; an option inside an option has an error of its own in it.
        options: The options that the parser has.
        program: The command, as its help names it.
    """
    key = re.match(r'Parser key "([^"]+)"', report)
    option = key[1] if key else ""
    inner = next(_refusals(error), None)
    if inner is not None:
        below = option and inner.option and not f"{inner.option}.".startswith(f"{option}.")
        own = f" ({inner.report})" if below and isinstance(inner, ParserRefusalError) else ""
        return UserError(
            f"{inner.message}{own}", f"{option}.{inner.option}" if below else inner.option or option
        )
    if unknown := re.match(r"Option '(.+)' is not accepted", report):
        return UserError(f"{unknown[0]}{_near(unknown[1], options)}")
    if unknown := re.match(r"Subcommand '\w+' does not accept option '(.+)'", report):
        return UserError("there is no such option", unknown[1])
    if report.startswith("unrecognized arguments: "):
        return UserError(f"{_cut(report)}; {_command(program)} --help lists the options")
    if missing := re.match(r"the following arguments are required: (.+)", report):
        names = ", ".join(name.split(".", 1)[-1] for name in missing[1].split(", "))
        return UserError(f"{names}: required and not given; {_command(program)} --help tells what it takes")
    if bare := re.match(r"argument (?:-\w/)?--(\S+): expected .*argument", report):
        return UserError("its value is missing", bare[1])
    if bare := re.match(r"argument --(\S+): ignored explicit argument (.+)", report):
        return UserError(f"it takes no value, and {bare[2]} is one; write --{bare[1]} alone", bare[1])
    if key is None:
        return UserError(_cut(report))
    if program == "lightning-drift export":
        option = f"--{option}"  # as its other sentences name it
    return ParserRefusalError(_reason(report), option, _own_words(report))


def _refusals(error: BaseException | None) -> Iterator[UserError]:
    """The errors of options inside options that an exception comes from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, UserError):
            yield error
        error = error.__cause__ or error.__context__


def _own_words(report: str) -> str:
    """The report in one line, for who looks it up."""
    return _cut("; ".join(dict.fromkeys(line.rstrip(". :") for line in _lines(report))))


def _lines(report: str) -> list[str]:
    """The lines that tell what is wrong."""
    lines = [
        re.sub(r"^[\s-]+|<class '(?:[\w.]+\.)?(\w+)'>|typing\.|collections\.abc\.", r"\1", line)
        for line in report.splitlines()
    ]
    return [line for line in lines if line.strip() and not _BOILERPLATE.match(line)]


def _reason(report: str) -> str:
    """What is wrong with an option's value."""
    value = re.search(r"Given value: (.*)\Z", report, re.DOTALL) or re.search(
        r"Got value: (.*)\Z", report, re.DOTALL
    )
    loaded = re.search(r"Unable to load config '(.*)'$", report, re.MULTILINE)
    given = shown((value or loaded)[1]) if value or loaded else "its value"  # type: ignore[index]
    kinds: dict[str, None] = {}
    others: dict[str, None] = {}
    for line in _lines(report):
        kind = re.match(r"Expected an? (Literal\[.*\]|\w+)", line)
        subclass = re.search(r"(?:subclass of |import path corresponding to a type\[(?:\w+\.)*)(\w+)", line)
        if subclass:
            kinds[f"the path of a class of {subclass[1]}"] = None
        elif kind and kind[1] == "dot":
            kinds["the path of a class, such as module.Class"] = None
        elif kind and kind[1].startswith("Literal["):
            kinds |= dict.fromkeys(re.findall(r"'[^']*'|[^,\s]+", kind[1][8:-1]))
        elif kind:
            kinds[_KINDS.get(kind[1], f"a {kind[1]}")] = None
        elif not line.startswith(("Parser key", "Given value")):
            others[line.rstrip(". :")] = None
    if loaded and not kinds and not others:
        kinds[_KINDS["dict"]] = None
    if others and not set(kinds) - {_KINDS["list"], _KINDS["bool"]}:
        return _cut("; ".join(others))  # the class that was named cannot be had
    names = [*kinds] or ["of the kind that it must be"]
    choice = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return _cut(f"{given} is not {choice}")


def _near(name: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [*options], 1)
    return f"; did you mean {near[0]}?" if near else ""


def _command(program: str) -> str:
    return program if program.startswith("lightning-drift") else "lightning-drift COMMAND"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
