"""YAML files of a user, read without running or building anything that they do not hold."""

from pathlib import Path
from typing import Any

import yaml

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_text

MAX_VALUES = 100_000
"""How many values a configuration may hold once its aliases are written out."""


def read_yaml(path: Path, what: str, option: str = "") -> Any:
    """Read a YAML file into plain values.

    Raises:
        UserError: It cannot be read, is not YAML, refers to itself, or holds more than 100,000 values once
            its aliases are written out.
    """
    text = read_text(path, what, option)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _values(node, {}, set()) > MAX_VALUES:
            raise UserError(f"the {what} {path} holds more than {MAX_VALUES:,} values", option)
        return yaml.safe_load(text)
    except UserError as error:
        raise error.of(option) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the {what} {path} is not a YAML file: {reason}", option) from error


def read_yaml_section(path: Path, what: str, option: str = "") -> dict[str, Any]:
    """Read a YAML file that holds a mapping with texts as keys; an empty file is an empty one.

    Raises:
        UserError: As `read_yaml`, or it holds something else.
    """
    value = read_yaml(path, what, option)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"the {what} {path} does not hold options by name", option)
    return value


def _values(node: yaml.Node, counts: dict[int, int], above: set[int]) -> int:
    """The number of values below a node, each alias counted as what it stands for."""
    if id(node) in above:
        raise UserError("a value refers to itself")
    if id(node) not in counts:
        above.add(id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [item for pair in node.value for item in pair]
        counts[id(node)] = 1 + sum(_values(child, counts, above) for child in children)
        above.discard(id(node))
    return counts[id(node)]
