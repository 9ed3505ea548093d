"""Prompts of a sweep: groups of them, and templates with slots such as ``a painting by {artist}``."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod
from pathlib import Path
from typing import Any

import torch

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.common.prompt_lists import find_list, read_prompts
from lightning_drift.common.rng import generator
from lightning_drift.common.yaml_files import read_yaml

MOST_PROMPTS = 200_000
_MARK = re.compile(r"\{\{|\}\}|\{(\w+)\}")

PromptsGiven = str | Sequence[str] | Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Prompt:
    """A prompt, its group, and its template's slots.

    Attributes:
        text: The prompt itself.
        group: The group that it was listed under; empty for none.
        slots: Its template's slots and their values; two values of one slot are joined by `` + ``.
    """

    text: str
    group: str = ""
    slots: tuple[tuple[str, str], ...] = ()


def read_groups(value: PromptsGiven, option: str) -> dict[str, list[str]]:
    """Read prompts in groups.

    Args:
        value: What `read_prompts` takes, which is one group without a name; prompts by group; or the name of
            a ``.yaml`` file that holds either.
        option: The option's name, for messages.

    Raises:
        UserError: A file cannot be read, or holds something else; or there is no prompt.
    """
    if isinstance(value, str) and value.lower().endswith((".yaml", ".yml")):
        value = _read_yaml(find_list(value), option)
    if isinstance(value, Mapping):
        if not value:
            raise UserError("there are no groups of prompts", option)
        return {str(group): read_prompts(prompts, f"{option}.{group}") for group, prompts in value.items()}
    return {"": read_prompts(value, option)}


def _read_yaml(path: Path, option: str) -> Any:
    content = read_yaml(path, "prompt file", option)
    groups = content if isinstance(content, dict) else {"": content}
    for group, prompts in groups.items():
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            where = f"{path}, {group}" if group else str(path)
            raise UserError(
                f"{where} is not a list of prompts; write one per line after a dash, in quotes where "
                "it is a number",
                option,
            )
    return content


def expand(
    prompts: PromptsGiven, slots: Mapping[str, str | Sequence[str]] | None, option: str = "data"
) -> list[Prompt]:
    """All prompts that templates give.

    ``{artist}`` takes each value of the slot in turn. A template with the same slot twice takes each pair of
    different values once (``{artist} and {artist}``), and so on; different slots are multiplied. A literal
    brace is written twice.

    >>> [prompt.text for prompt in expand("{who} and {who}", {"who": ["Ernst", "Klee", "Kubin"]})]
    ['Ernst and Klee', 'Ernst and Kubin', 'Klee and Kubin']

    Args:
        prompts: Prompts and templates, as `read_groups` takes them.
        slots: Values of each slot: a list, or a text file with one per line.
        option: What the options' names begin with.

    Returns:
        The prompts, each once.

    Raises:
        UserError: A slot is not given, is not used or has too few values, or there are too many prompts.
    """
    if slots is not None and not isinstance(slots, Mapping):
        raise UserError(f"{shown(slots)} holds no slots by name", f"{option}.slots")
    values = {slot: read_prompts(given, f"{option}.slots.{slot}") for slot, given in (slots or {}).items()}
    used: set[str] = set()
    found: list[tuple[str, list[str], str]] = []
    total = 0
    for group, templates in read_groups(prompts, f"{option}.prompts").items():
        for template in templates:
            names = [match[1] for match in _MARK.finditer(template) if match[1]]
            used |= set(names)
            _check_braces(template, option)
            total += _count(template, names, values, option)
            found.append((template, names, group))
    if total > MOST_PROMPTS:  # before one of them is made
        raise UserError(
            f"the templates give {total:,} prompts, more than {MOST_PROMPTS:,}; shorten the slots' lists",
            f"{option}.prompts",
        )
    expanded: dict[str, Prompt] = {}
    for template, names, group in found:
        for prompt in _filled(template, names, values, group):
            expanded.setdefault(prompt.text, prompt)
    if unused := [slot for slot in values if slot not in used]:
        raise UserError(
            f"no prompt has the slot {{{unused[0]}}}; add it to one, or leave it out", f"{option}.slots"
        )
    return list(expanded.values())


def _check_braces(template: str, option: str) -> None:
    left = _MARK.sub("", template)
    if brace := next((character for character in left if character in "{}"), None):
        raise UserError(
            f"{shown(template)} has a {brace} that belongs to no slot; a slot is written {{artist}}, a brace "
            f"twice: {brace * 2}",
            f"{option}.prompts",
        )


def _count(template: str, names: Sequence[str], values: Mapping[str, list[str]], option: str) -> int:
    """How many prompts a template gives."""
    for name, count in Counter(names).items():
        if name not in values:
            there = ", ".join(f"{{{slot}}}" for slot in values) or "none"
            raise UserError(
                f"{shown(template)} has the slot {{{name}}}, and {option}.slots gives {there}; "
                "add it there, or write {{ and }} for braces",
                f"{option}.prompts",
            )
        if len(values[name]) < count:
            raise UserError(
                f"{shown(template)} needs {count} different values, there is {len(values[name])}",
                f"{option}.slots.{name}",
            )
    total = prod(comb(len(values[name]), count) for name, count in Counter(names).items())
    if total > MOST_PROMPTS:
        raise UserError(
            f"{shown(template)} gives {total:,} prompts, more than {MOST_PROMPTS:,}; shorten its slots' "
            "lists",
            f"{option}.prompts",
        )
    return total


def _filled(
    template: str, names: Sequence[str], values: Mapping[str, list[str]], group: str
) -> Iterator[Prompt]:
    counts = Counter(names)
    for chosen in product(*(combinations(values[name], count) for name, count in counts.items())):
        taken = dict(zip(counts, chosen, strict=True))
        left = {name: iter(values) for name, values in taken.items()}

        def put(match: re.Match[str], left: Mapping[str, Iterator[str]] = left) -> str:
            return next(left[match[1]]) if match[1] else match[0][0]

        yield Prompt(
            _MARK.sub(put, template), group, tuple((name, " + ".join(some)) for name, some in taken.items())
        )


def sampled(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """``count`` prompts at random, always the same ones, in their order; all of them for None."""
    if count is None or count >= len(prompts):
        return list(prompts)
    order = torch.randperm(len(prompts), generator=generator(0, "sample of prompts", len(prompts)))
    return [prompts[index] for index in sorted(order[:count].tolist())]
