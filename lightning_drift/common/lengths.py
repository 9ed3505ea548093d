"""Lengths on paper, as a user writes them."""

import re

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown

MILLIMETRES = {"mm": 1.0, "cm": 10.0, "in": 25.4}
MOST = 10_000.0
"""Millimetres of the longest length: no printer takes more."""

_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_UNITS = "|".join(MILLIMETRES)
_LENGTH = re.compile(rf"({_NUMBER})\s*({_UNITS})")
_AREA = re.compile(rf"({_NUMBER})\s*({_UNITS})?\s*x\s*({_NUMBER})\s*({_UNITS})")

PAPERS = {
    "A0": (841.0, 1189.0),
    "A1": (594.0, 841.0),
    "A2": (420.0, 594.0),
    "A3": (297.0, 420.0),
    "A4": (210.0, 297.0),
    "A5": (148.0, 210.0),
    "A6": (105.0, 148.0),
}
"""Width and height in millimetres of papers by name (ISO 216)."""


def length(value: object, option: str) -> float:
    """A length in millimetres; 0 needs no unit.

    Args:
        value: What was given, such as ``3mm``, ``1.5cm`` or ``0.125in``.
        option: The option's name, for the error message.

    Raises:
        UserError: It is no length with a unit, or longer than ten metres.

    >>> length("1.5cm", "data.border"), length("0", "data.border")
    (15.0, 0.0)
    """
    text = str(value).strip().lower()
    if text in ("0", "0.0"):
        return 0.0
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise UserError(f"{shown(value)} is not a length; write it as 3mm, 1.5cm or 0.125in", option)
    return _bounded(float(match[1]) * MILLIMETRES[match[2]], value, option, least=0)


def paper_size(value: object, option: str) -> tuple[float, float]:
    """Width and height of a paper in millimetres.

    Args:
        value: What was given: ``40x30cm``, ``16in x 20in``, or a name from A0 to A6.
        option: The option's name, for the error message.

    Raises:
        UserError: It is no size, or a side is shorter than a millimetre or longer than ten metres.

    >>> paper_size("40x30cm", "data.print"), paper_size("a4", "data.print")
    ((400.0, 300.0), (210.0, 297.0))
    """
    text = str(value).strip().lower()
    if text.upper() in PAPERS:
        return PAPERS[text.upper()]
    match = _AREA.fullmatch(text)
    if match is None:
        raise UserError(f"{shown(value)} is not a size on paper; write it as 40x30cm, 16x20in or A4", option)
    width = float(match[1]) * MILLIMETRES[match[2] or match[4]]
    height = float(match[3]) * MILLIMETRES[match[4]]
    return _bounded(width, value, option, least=1), _bounded(height, value, option, least=1)


def _bounded(millimetres: float, value: object, option: str, least: float) -> float:
    if not least <= millimetres <= MOST:
        raise UserError(f"{shown(value)} is out of range; give {least:g} mm to {MOST / 1000:g} m", option)
    return millimetres
