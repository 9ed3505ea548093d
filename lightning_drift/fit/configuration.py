"""Configurations of fits as plain values: how two differ, which classes they name, which prompts."""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lightning_drift.common.prompt_lists import is_prompt_file, read_prompts

TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"


def same_class(one: str, other: str) -> bool:
    """Whether two class paths lead to one class, such as a class's public name and that of its module.

    >>> same_class("lightning.pytorch.loggers.tensorboard.TensorBoardLogger", TENSORBOARD)
    True
    """
    return one == other or (class_at(one) is not None and class_at(one) is class_at(other))


def differences(
    old: Any,
    new: Any,
    ignore: re.Pattern[str],
    key: str = "",
    alike: Callable[[str, str], bool] = same_class,
) -> dict[str, tuple[object, object]]:
    """The settings in which two configurations differ; two names of one class are no difference.

    Args:
        old: A configuration, or a value in it.
        new: Another.
        ignore: Dotted keys to pass over, with all that is in them.
        key: The dotted key that both are the value of; empty for whole configurations.
        alike: Whether two class paths are those of one class; by default they are imported.

    Returns:
        Old and new value by dotted key; None where one has no such setting.
    """
    if ignore.fullmatch(key):
        return {}
    if isinstance(old, dict) and isinstance(new, dict):
        changes: dict[str, tuple[object, object]] = {}
        for child in {**old, **new}:
            inner = f"{key}.{child}" if key else str(child)
            changes |= differences(old.get(child), new.get(child), ignore, inner, alike)
        return changes
    same = old == new or (key.endswith("class_path") and alike(str(old), str(new)))
    return {} if same else {key: (old, new)}


def class_at(path: str) -> object | None:
    """The class that a class path leads to; None if it leads nowhere."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def with_prompts(groups: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A seed grid's groups with the prompts of each file in place of its name.

    A run that records them so can be resumed and read when the files have been edited or are gone.

    Args:
        groups: What `SeedGrid` takes.

    Raises:
        UserError: A file cannot be read.
    """
    if not isinstance(groups, Mapping):
        return groups
    resolved = dict(groups)
    for name, group in resolved.items():
        if isinstance(group, Mapping) and is_prompt_file(group.get("prompts")):
            prompts = read_prompts(group["prompts"], f"seed_grid.groups.{name}.prompts")
            resolved[name] = {**group, "prompts": prompts}
    return resolved
