"""What documents and docstrings name exists: files, and commands with the arguments named with them."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT
from helpers.scripts import script

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "training").rglob("*.md")),
    *sorted((ROOT / "lightning_drift" / "assets").rglob("*.md")),
]
MODULES = [*sorted((ROOT / "training").rglob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]
COMMAND = re.compile(r"(?:python -m (training[\w.]*)|(scripts/\w+(?:\.py)?))(.*)")


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".md" else ast.get_docstring(ast.parse(text)) or ""


def lines_of_code(text: str) -> Iterator[str]:
    """Code in fences, in indented lines and between backticks, with shell variables put in."""
    fences = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    variables: dict[str, str] = {}
    for line in [line for fence in fences for line in fence.splitlines()]:
        if match := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[match[1]] = match[2]
        else:
            yield re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), line)
    yield from (line for line in text.splitlines() if line.startswith("    "))
    yield from (" ".join(span.split()) for span in re.findall(r"`+([^`]+)`+", text))


def commands_in(path: Path) -> list[tuple[str, list[str]]]:
    """Modules or scripts with the arguments they are given."""
    matches = [match for line in lines_of_code(text_of(path)) if (match := COMMAND.search(line))]
    return [(match[1] or match[2], shlex.split(match[3], comments=True)) for match in matches]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def program(name: str) -> Any:
    if name.startswith("training"):
        return importlib.import_module(name)
    return script(name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    files = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [file for file in files if not (path.parent / file).exists()] == []


@pytest.mark.parametrize("path", [path for path in [*DOCUMENTS, *MODULES] if commands_in(path)], ids=named)
def test_every_command_takes_the_arguments_named_with_it(path: Path) -> None:
    for name, arguments in commands_in(path):
        if not name.endswith(".py") and name.startswith("scripts/"):
            assert (ROOT / name).stat().st_mode & 0o111, name
            continue
        module = program(name)
        assert callable(module.main), name
        if arguments:
            options = module.arguments(arguments)  # exits where it does not understand
            init = getattr(options, "init", None)
            if init and (ROOT / init.parts[0]).exists():
                assert (ROOT / init / "text" / "config.json").is_file(), f"{init} holds no stages"


@pytest.mark.parametrize("path", [*DOCUMENTS, *MODULES], ids=named)
def test_every_path_of_the_clone_in_code_exists(path: Path) -> None:
    pattern = r"(?:lightning_drift|training|configs|scripts|docs|tests)/[\w./+-]*\w"
    paths = {
        match for line in lines_of_code(text_of(path)) for match in re.findall(rf"(?<![\w/.]){pattern}", line)
    }
    assert sorted(file for file in paths if not (ROOT / file).exists()) == []
