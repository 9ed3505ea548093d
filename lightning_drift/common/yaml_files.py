"""YAML of a user, read without running or building anything that it does not hold."""

import re
from pathlib import Path
from typing import Any

import yaml

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_text
from lightning_drift.common.numbers import shown

MAX_VALUES = 100_000
"""How many values a configuration may hold once its aliases are written out."""


class _Loader(yaml.SafeLoader):
    """Numbers as people write them: ``1e-6`` is one, ``1:30`` and ``010`` are not; a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in ("int", "float", "timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$|0x[0-9a-fA-F]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """The plain values that YAML text holds; None for a text that holds none.

    Raises:
        UserError: It is not YAML, refers to itself, names a key twice, or holds more than 100,000 values once
            its aliases are written out. The message goes on after a name: "is not YAML: …".
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}, set()) > MAX_VALUES:
            raise UserError(f"holds more than {MAX_VALUES:,} values")
        return loader.construct_document(node)
    except UserError:
        raise
    except RecursionError as error:
        raise UserError("is not YAML that can be read: it is nested too deeply") from error
    # A value under a tag that it does not fit (`!!timestamp 1`) fails in whatever way its constructor does.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise UserError(f"is not YAML: {' '.join(str(error).split())[:300]}") from error


def read_yaml(path: Path, what: str, option: str = "") -> Any:
    """Read a YAML file into plain values.

    Args:
        path: The file.
        what: What it is taken for, such as ``configuration``.
        option: The option that names it.

    Raises:
        UserError: It cannot be read, or its text is refused by `parse_yaml`.
    """
    text = read_text(path, what, option)
    try:
        return parse_yaml(text)
    except UserError as error:
        raise UserError(f"the {what} {path} {error.message}", option) from error


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
        raise UserError("cannot be read: a value refers to itself")
    if id(node) not in counts:
        above.add(id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            _refuse_repeated(node)
            children = [item for pair in node.value for item in pair]
        counts[id(node)] = 1 + sum(_values(child, counts, above) for child in children)
        above.discard(id(node))
    return counts[id(node)]


def _refuse_repeated(node: yaml.MappingNode) -> None:
    keys: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in keys:
                line = key.start_mark.line + 1
                raise UserError(f"has the key {shown(key.value)} twice, again in line {line}; keep one")
            keys.add((key.tag, key.value))
