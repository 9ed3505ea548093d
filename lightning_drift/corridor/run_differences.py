"""The options in which the runs of a page differ, beside those that make its rows and columns."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from typing import Any

import yaml

from lightning_drift.corridor.plan import OF_EACH_FIT
from lightning_drift.corridor.recorded_run import RecordedRun
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.fit.configuration import differences

MOST_OPTIONS = 40
"""Options that a page shows; the rest are counted."""
_LONGEST = 80  # characters of a value

# Where a run writes, and what a resume or a soup records of itself.
_PLACES = (
    r"trainer\.(default_root_dir|logger\.init_args\.(save_dir|sub_dir|purge_step))|step_checkpoint\.dirpath"
    r"|.*\.cache_dir|(.*\.)?dict_kwargs|soup"
)
_IGNORED = re.compile(f"{OF_EACH_FIT}|{_PLACES}")


@dataclass(frozen=True)
class Value:
    """An option's value in a run.

    Attributes:
        text: As YAML has it; of a run that was resumed with another value, both.
        usual: Whether most of the runs have it.
    """

    text: str
    usual: bool


@dataclass(frozen=True)
class RunDifferences:
    """What differs between runs.

    Attributes:
        runs: Their positions in the corridor.
        options: Their values by the option's dotted name, in the order of the configurations.
        rest: How many options more differ.
    """

    runs: list[int]
    options: dict[str, list[Value]]
    rest: int


def run_differences(table: CorridorTable) -> RunDifferences | None:
    """The options that differ between the fits of a corridor; None where none does.

    Soups are no fits. Classes are compared by name: nothing is imported for a configuration of somebody else.
    """
    places = [index for index, run in enumerate(table.runs) if not run.soup]
    runs = [table.runs[index] for index in places]
    found: dict[str, None] = {}
    for config in (config for run in runs for config in _configs(run)):
        found |= dict.fromkeys(differences(runs[0].config, config, _IGNORED, alike=eq))
    # Where a section is missing in one run, it is one option of all.
    keys = [key for key in found if not any(key.startswith(f"{other}.") for other in found)]
    rows = {key: [_text(run, key) for run in runs] for key in keys}
    rows = {key: texts for key, texts in rows.items() if len({*texts}) > 1}
    if not rows:
        return None
    shown = {_option(key): _values(rows[key]) for key in [*rows][:MOST_OPTIONS]}
    return RunDifferences(places, shown, len(rows) - len(shown))


def _configs(run: RecordedRun) -> list[dict[str, Any]]:
    return [run.config, *run.resumes]


def _text(run: RecordedRun, key: str) -> str:
    """A run's value as YAML, and what it was changed to by resumes."""
    return " → ".join(dict.fromkeys(_yaml(_at(config, key)) for config in _configs(run)))


def _at(value: Any, key: str) -> Any:
    """What lies at a dotted key; the names in it may have dots of their own. None if nothing does."""
    if not key or not isinstance(value, Mapping):
        return None if key else value
    inner = (
        _at(child, key[len(str(name)) + 1 :])
        for name, child in value.items()
        if f"{key}.".startswith(f"{name}.")
    )
    return next((each for each in inner if each is not None), None)


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("...\n").strip()


def _option(key: str) -> str:
    """A key's name on the command line."""
    return re.sub(r"^(model|data)\.init_args\.", r"\1.", key)


def _values(texts: Sequence[str]) -> list[Value]:
    """The values of an option; of long ones what lies around the first place where they differ."""
    (common, count), *_ = Counter(texts).most_common(1)
    shortest = min(map(len, texts))
    same = next((at for at in range(shortest) if len({text[at] for text in texts}) > 1), shortest)
    start = max(0, same - _LONGEST // 4) if any(len(text) > _LONGEST for text in texts) else 0

    def cut(text: str) -> str:
        part = text[start : start + _LONGEST]
        return f"{'…' if start else ''}{part}{'…' if start + _LONGEST < len(text) else ''}"

    return [Value(cut(text), text == common and 2 * count > len(texts)) for text in texts]
