"""What a fine-tune's file records of its training, checked where it is read."""

from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.stable_diffusion.drift_dial import from_recipe


def checked_recipe(recipe: Any, origin: str) -> dict[str, Any] | None:
    """A recipe as a fit records it, or None where there is none.

    Args:
        recipe: What the file holds; only what decides how the model is opened is looked at.
        origin: The file, for messages.

    Raises:
        UserError: It is no recipe, or its base, the base's revision or its drift is of the wrong type.
    """
    if recipe is None:
        return None
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise UserError(f"{origin} is damaged: its recipe is {shown(recipe)}")
    for key in ("base", "base_revision"):
        if not isinstance(recipe.get(key), str | None):
            raise UserError(f"{origin} is damaged: its recipe names as {key} {shown(recipe[key])}")
    try:
        from_recipe(drift := recipe.get("drift", 1.0))
    except ValueError as error:
        raise UserError(f"{origin} is damaged: the drift of its recipe is {shown(drift)}") from error
    return recipe


def checked_step(step: Any, origin: str) -> int | None:
    """The number of optimizer steps that a file records, or None where there is none.

    Raises:
        UserError: It is no whole number from 0 on.
    """
    if step is None or (type(step) is int and 0 <= step < 2**63):
        return step
    raise UserError(f"{origin} is damaged: its step is {shown(step)}")
