"""The ``parameters`` text of a PNG, as AUTOMATIC1111's web UI writes and reads it."""

import json
import re
from collections.abc import Mapping

_PAIR = re.compile(r'(?:^|, )([^:,"]{1,60}): ("(?:[^"\\]|\\.)*"|[^,]*)')
_LONGEST = 2**20


def infotext(prompt: str, negative_prompt: str, settings: Mapping[str, object]) -> str:
    """Format generation parameters.

    The layout: the prompt, a line ``Negative prompt: …`` if there is one, and one last line ``key: value,
    key: value`` that readers split on commas; a value holding a comma, a colon or a line break, or
    beginning with a quotation mark, which readers would take off, is JSON-quoted.

    Args:
        prompt: The prompt, any text.
        negative_prompt: The negative prompt; empty means none.
        settings: The last line's pairs in order, at least three (readers take fewer for prompt text).

    Returns:
        The text.
    """
    pairs = ", ".join(f"{key}: {_quote(str(value))}" for key, value in settings.items())
    negative = f"Negative prompt: {negative_prompt}\n" if negative_prompt else ""
    return f"{prompt}\n{negative}{pairs}"


def _quote(value: str) -> str:
    needed = value.startswith('"') or any(mark in value for mark in ",:\n")
    return json.dumps(value, ensure_ascii=False) if needed else value


def settings_of(text: str) -> dict[str, str]:
    r"""The last line's pairs of a ``parameters`` text; none of one that is longer than any here.

    >>> settings_of('a cat\nSteps: 30, Tile captions: "a, b", Seed: 1')
    {'Steps': '30', 'Tile captions': 'a, b', 'Seed': '1'}
    """
    line = text.rpartition("\n")[2]
    if len(line) > _LONGEST:
        return {}
    found = {}
    for key, value in _PAIR.findall(line):
        try:
            found[key] = str(json.loads(value)) if value.startswith('"') else value
        except ValueError:
            found[key] = value
    return found
