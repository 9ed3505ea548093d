"""The JSON configs that lie beside a model's weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError

_RECORDS = {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version"}


def read_config(path: Path) -> dict[str, Any]:
    """Read a config of a model's folder.

    Raises:
        UserError: There is no such file, or it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}; the model's folder is not complete") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a config: it holds a {type(value).__name__}")
    return value


def model_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of diffusers or transformers without what records only who wrote it and how it is stored."""
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in _RECORDS}
