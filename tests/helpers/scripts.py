"""The scripts beside the package, loaded as modules."""

import importlib.util
from pathlib import Path
from typing import Any

from helpers.paths import ROOT


def script(name: str) -> Any:
    """A script by its path in the clone."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
