"""Our entries in the metadata of safetensors files."""

import json
from collections.abc import Mapping
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.text import reason

METADATA = "lightning_drift."
"""The prefix of our own entries in a safetensors file's metadata: recipe, step, parts, change."""


def metadata_entry(metadata: Mapping[str, str], entry: str, origin: str) -> Any:
    """Our own entry of that name in a file's metadata, from JSON; None if there is none.

    Raises:
        UserError: It is damaged.
    """
    text = metadata.get(METADATA + entry)
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"the {METADATA}{entry} entry in the metadata of {origin} is damaged ({reason(error)})"
        ) from error
