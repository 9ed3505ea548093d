"""Packages that only some launchers need."""

from importlib import import_module
from typing import Any

from lightning_drift.common.errors import UserError


def extra(package: str, name: str) -> Any:
    """Import a package that an extra of this one installs.

    Args:
        package: The package.
        name: The extra.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(
            f"it needs the package {package}, which is not installed: pip install 'lightning-drift[{name}]'",
            "launcher",
        ) from error
