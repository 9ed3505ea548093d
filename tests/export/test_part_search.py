"""The farthest drift that keeps one part: on planes whose end of dreaming is known."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_drift.export.part_search import farthest_keeping
from lightning_drift.stable_diffusion.drift_dial import Drift, in_part

PRECISION = 0.1


def plane(unet: float, text: float, end: float = 1.0) -> tuple[Callable[[Drift], str], list[Drift]]:
    """Dreaming ends where the parts' shares together reach ``end``."""
    asked: list[Drift] = []

    def place(drift: Drift) -> str:
        asked.append(drift)
        far = unet * in_part(drift, "unet") + text * in_part(drift, "text_encoder")
        return "beyond" if far > end else "dreaming" if far > 0.1 else "short"

    return place, asked


@pytest.mark.parametrize(
    ("part", "unet", "text", "expected"),
    [
        ("unet", 0.6, 1.2, (1.0, 1 / 3)),  # the whole UNet, and a third of the text encoder
        ("text_encoder", 0.6, 1.2, (0.0, 1 / 1.2)),  # too far by itself: the UNet is the base's
        ("text_encoder", 1.2, 0.6, (1 / 3, 1.0)),
        ("unet", 1.25, 0.6, (0.8, 0.0)),
    ],
)
def test_the_other_part_is_taken_back_first(
    part: str, unet: float, text: float, expected: tuple[float, float]
) -> None:
    place, asked = plane(unet, text)
    low = 1 / (unet + text) - 0.02
    found: Any = farthest_keeping(part, place, low, low + 0.04, PRECISION)
    for value, ideal in zip(found, expected, strict=True):
        assert ideal - PRECISION <= value <= ideal + 1e-9
    assert found in asked, "only what was seen to dream is chosen"
    assert len(asked) == len(set(asked)) <= 5


def test_a_part_with_which_nothing_dreams_has_none() -> None:
    assert farthest_keeping("unet", lambda drift: "beyond", 0.4, 0.45, PRECISION) is None
    assert farthest_keeping("unet", lambda drift: "short", 0.4, 0.45, PRECISION) is None


def test_what_is_short_of_dreaming_is_no_end_of_it() -> None:
    place, _ = plane(0.05, 0.9, end=0.5)  # a UNet alone is short; with more of the text encoder it dreams
    found: Any = farthest_keeping("unet", place, 0.5, 0.55, PRECISION)
    assert found.unet == 1
    assert 0.4 <= found.text_encoder <= 0.5
