"""The configuration of a run as the corridor reads it: its parts are looked at once, where they enter."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.common.number_lists import integers
from lightning_drift.common.numbers import shown
from lightning_drift.common.yaml_files import read_yaml
from lightning_drift.corridor.event_files import MAX_STEP

_SECTIONS = ("trainer", "model", "data", "seed_grid", "clip_drift", "step_checkpoint")
_MOST_PICTURES = 10_000
"""Pictures of a run at one step."""


def read_run_config(path: Path) -> dict[str, Any]:
    """Read the ``config.yaml`` of a run.

    Raises:
        UserError: It cannot be read, or is not a run's: the message says what is wrong in it.
    """
    try:
        config = read_yaml(path, "configuration")
    except UserError as error:
        raise UserError(f"{path} cannot be read and is not a run's config: {error}") from error
    return checked(config, path)


def checked(config: Any, path: Path) -> dict[str, Any]:
    """A configuration whose parts have the shape that the corridor relies on.

    Args:
        config: What YAML made of a file.
        path: The file, for the message.

    Raises:
        UserError: A part has another shape, or the learning rate is none.
    """

    def refuse(reason: str) -> UserError:
        return UserError(f"{path} is not a run's config: {reason}")

    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise refuse("it does not hold options by name")
    for name in _SECTIONS:
        part = config.get(name)
        if not isinstance(part, Mapping | None):
            raise refuse(f"{name} is {shown(part)} and no section")
        if part and not isinstance(part.get("init_args"), Mapping | None):
            raise refuse(f"{name}.init_args is {shown(part['init_args'])} and no section")
    try:
        learning_rate(config)
        seeds_by_prompt(config)
        checkpoint_folder(config)
    except UserError as error:
        raise refuse(str(error)) from error
    return config


def arguments(config: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The ``init_args`` of a part; nothing where there are none."""
    return (config.get(part) or {}).get("init_args") or {}


def learning_rate(config: Mapping[str, Any]) -> float:
    """The learning rate; 0 where the configuration holds none.

    Raises:
        UserError: It is no number, or none that a rate can be.
    """
    value = arguments(config, "model").get("learning_rate")
    try:
        rate = float(value or 0.0)  # YAML takes 1e-6 for a text
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if isinstance(value, bool) or not 0 <= rate < 1e6:
        raise UserError(f"{shown(value)} is not a learning rate", "model.learning_rate")
    return rate


def end(config: Mapping[str, Any]) -> int | None:
    """The step at which a fit ends; None where the configuration has none."""
    steps = (config.get("trainer") or {}).get("max_steps")
    if isinstance(steps, bool) or not isinstance(steps, int):
        return None
    return steps if 0 < steps <= MAX_STEP else None


def seeds_by_prompt(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Seeds by prompt, in the order of the seed grid's groups. No file is read: a run records its prompts.

    Raises:
        UserError: The groups are none.
    """
    groups = (config.get("seed_grid") or {}).get("groups") or {}
    if not isinstance(groups, Mapping):
        raise UserError(f"{shown(groups)} is not a section of groups", "seed_grid.groups")
    seeds: dict[str, list[int]] = {}
    count = 0
    for name, group in groups.items():
        prompts = group.get("prompts") if isinstance(group, Mapping) else None
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise UserError(f"{shown(name)} is not a group of prompts", "seed_grid.groups")
        own = integers(group.get("seeds", "0-7"), "seed_grid.groups", empty=True)
        count += len(own) * len(prompts)
        if count > _MOST_PICTURES:
            raise UserError(f"they are more than {_MOST_PICTURES:,} pictures", "seed_grid.groups")
        for prompt in prompts:
            seeds[prompt] = list(dict.fromkeys([*seeds.get(prompt, []), *own]))
    return seeds


def checkpoint_folder(config: Mapping[str, Any]) -> Path | None:
    """Where the checkpoints lie if not in the run's folder.

    Raises:
        UserError: It is no path.
    """
    folder = (config.get("step_checkpoint") or {}).get("dirpath")
    if folder is None or folder == "":
        return None
    if not isinstance(folder, str):
        raise UserError(f"{shown(folder)} is not a folder", "step_checkpoint.dirpath")
    return user_path(folder, "step_checkpoint.dirpath")
