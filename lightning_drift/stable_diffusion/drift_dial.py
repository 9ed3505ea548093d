"""What the drift dial is turned to: a number for the whole model, or one for each part that a fit changes."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from lightning_drift.common.errors import UserError
from lightning_drift.common.number_lists import decimals
from lightning_drift.common.numbers import real, shown
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED

MOST = 1.5
"""The largest drift."""

EXAMPLE = "unet=1,text_encoder=0.5"
"""A drift for each part, for messages."""


class PartDrifts(NamedTuple):
    """Drifts that differ from part to part; see `drift_of`. As text it is what an option takes.

    >>> str(PartDrifts(1.0, 0.5))
    'unet=1,text_encoder=0.5'
    """

    unet: float
    text_encoder: float

    def __str__(self) -> str:
        return format(self, "g")

    def __format__(self, spec: str) -> str:
        return ",".join(f"{part}={value:{spec}}" for part, value in zip(TRAINED, self, strict=True))


Drift = float | PartDrifts
"""A dial's value. Parts with equal drifts are one number."""


def drift_of(unet: float, text_encoder: float) -> Drift:
    """The value with these drifts of the parts.

    >>> drift_of(0.5, 0.5), drift_of(1.0, 0.5)
    (0.5, PartDrifts(unet=1.0, text_encoder=0.5))
    """
    return unet if unet == text_encoder else PartDrifts(unet, text_encoder)


def in_part(drift: Drift, part: str) -> float:
    """The drift of a part, one of ``unet`` and ``text_encoder``."""
    return getattr(drift, part) if isinstance(drift, PartDrifts) else drift


def product(one: Drift, other: Drift) -> Drift:
    """The drift of a model that was dialled twice."""
    return drift_of(*(round(in_part(one, part) * in_part(other, part), 6) for part in TRAINED))


def dial_title(drift: Drift) -> str:
    """A value in words: ``0.7``, ``unet 1, text encoder 0.5``."""
    if not isinstance(drift, PartDrifts):
        return f"{drift:g}"
    return f"unet {drift.unet:g}, text encoder {drift.text_encoder:g}"


def dial_name(drift: Drift) -> str:
    """A value in a file's name: ``drift0.7``, ``drift-unet1-text_encoder0.5``."""
    if not isinstance(drift, PartDrifts):
        return f"drift{drift:g}"
    return f"drift-unet{drift.unet:g}-text_encoder{drift.text_encoder:g}"


# -- options --------------------------------------------------------------------------------------------


def read_drift(value: object, option: str) -> Drift:
    """A value that a user gives.

    Args:
        value: A number in 0 to 1.5, or text: one, or ``unet=1,text_encoder=0.5`` with a drift for each part.
            A part that is left out keeps 1, the model as trained.
        option: The option that holds it, for the message.

    Raises:
        UserError: It is neither, a part is unknown or given twice, or a number is out of range.

    >>> read_drift("text_encoder=0.5", "model.drift")
    PartDrifts(unet=1.0, text_encoder=0.5)
    """
    if isinstance(value, PartDrifts):
        value = str(value)
    if not isinstance(value, str):
        return _checked(value, option)
    if "=" in value:
        return _of_parts([word.strip() for word in value.split(",")], option)
    try:
        return _checked(float(value), option)
    except ValueError:
        raise UserError(
            f"{shown(value)} is not a number, nor one for each part, such as {EXAMPLE}", option
        ) from None


def read_drifts(values: str | float | Iterable[float | str], option: str) -> list[Drift]:
    """A list of values, without repetitions.

    Args:
        values: One value, a sequence of them, or text: values separated by commas or semicolons, as in
            ``0.5,1,text_encoder=0.5``. Parts that follow each other are of one value, up to one that it has
            already or a semicolon: ``unet=1,text_encoder=0.5;unet=0.5``.
        option: As for `read_drift`.

    Raises:
        UserError: As `read_drift`, or the list is empty.
    """
    items: list[Any] = [values] if isinstance(values, str) or not isinstance(values, Iterable) else [*values]
    if not any(isinstance(item, str) and "=" in item for item in items):
        return [_checked(number, option) for number in decimals(values, option)]  # type: ignore[arg-type]
    drifts: list[Drift] = []
    for item in items:
        for piece in item.split(";") if isinstance(item, str) else [item]:
            if not isinstance(piece, str):
                drifts += read_drifts(piece, option)
            elif piece.strip():
                drifts += [read_drift(text, option) for text in _values(piece)]
    return list(dict.fromkeys(drifts))


def _values(text: str) -> list[str]:
    """The values in a list without semicolons, each as text."""
    found: list[list[str]] = []
    for word in (word.strip() for word in text.split(",")):
        part = word.partition("=")[0].strip()
        last = found[-1] if found and "=" in found[-1][0] and "=" in word else None
        if last is None or part in [each.partition("=")[0].strip() for each in last]:
            found.append([word])
        else:
            last.append(word)
    return [",".join(words) for words in found]


def _of_parts(words: list[str], option: str) -> Drift:
    drifts: dict[str, float] = {}
    for word in words:
        part, equals, text = (piece.strip() for piece in word.partition("="))
        if not equals or part not in TRAINED:
            raise UserError(
                f"{shown(part)} is no part that a fit changes; give unet, text_encoder or both, as in "
                f"{EXAMPLE}",
                option,
            )
        if part in drifts:
            raise UserError(f"{part} is given twice; give each part one drift", option)
        if not re.fullmatch(r"[-+.\w]+", text):
            raise UserError(f"{part}={shown(text)} is not a number; write for example {EXAMPLE}", option)
        try:
            number = float(text)
        except ValueError:
            raise UserError(
                f"{part}={shown(text)} is not a number; write for example {EXAMPLE}", option
            ) from None
        drifts[part] = _checked(number, option, f"{part}=")
    return drift_of(*(drifts.get(part, 1.0) for part in TRAINED))


def _checked(value: object, option: str, before: str = "") -> float:
    number = real(value, option)
    if not 0 <= number <= MOST:
        raise UserError(
            f"{before}{number:g} is out of range; give 0 (the base) to {MOST}, 1 is the model as trained",
            option,
        )
    return number


def check_parts(drift: Drift, trains_text_encoder: bool, model: str, option: str) -> None:
    """Refuse a drift for a text encoder that is the base's at any.

    Args:
        drift: The value.
        trains_text_encoder: Whether the fit trained it.
        model: What it is called.
        option: As for `read_drift`.

    Raises:
        UserError: The text encoder was not trained, and has a drift of its own.
    """
    if isinstance(drift, PartDrifts) and not trains_text_encoder and drift.text_encoder != 1:
        raise UserError(
            f"the fit of {model} left the text encoder as it was (train_text_encoder false), and no drift "
            f"changes it; give {drift.unet:g} alone",
            option,
        )


# -- recipes --------------------------------------------------------------------------------------------


def recorded(drift: Drift) -> float | str:
    """A value as a recipe holds it: a number, or the text of one for each part."""
    return str(drift) if isinstance(drift, PartDrifts) else drift


def from_recipe(value: object) -> Drift:
    """The value that a recipe holds; dials that were turned one after the other may lead beyond 1.5.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{shown(value)} is no drift")
    if isinstance(value, str):
        match = re.fullmatch(r"unet=([-+.\w]+),text_encoder=([-+.\w]+)", value)
        if match is None:
            raise ValueError(f"{shown(value)} is no drift")
        value = drift_of(float(match[1]), float(match[2]))
    if not all(abs(in_part(value, part)) < 100 for part in TRAINED):
        raise ValueError(f"{value:g} is no drift")
    return value
