"""Where a fine-tune still dreams if one part keeps its change and the other is taken back.

One dial takes back as much of the UNet as of the text encoder, and they do not do the same: the pocket's
prompts are lost by the text encoder first (docs/pocket.md). So each part in turn is kept, and the other
turned down.
"""

from collections.abc import Callable

from lightning_drift.stable_diffusion.drift_dial import Drift, drift_of
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED


def with_parts(kept: str, own: float, other: float) -> Drift:
    """The drift with a part's own and the other's.

    >>> str(with_parts("text_encoder", 1.0, 0.25))
    'unet=0.25,text_encoder=1'
    """
    return drift_of(own, other) if kept == TRAINED[0] else drift_of(other, own)


def farthest_keeping(
    part: str, place: Callable[[Drift], str], low: float, high: float, precision: float
) -> Drift | None:
    """The farthest drift that dreams and keeps as much as can be of one part's change, by bisection.

    The other part is taken back first, down to the base's; where that is not enough, this part is too. More
    drift of either part is assumed to lead farther along the corridor.

    Args:
        part: The part that is kept.
        place: Where the model is at a drift: "short" of dreaming, "dreaming", or "beyond".
        low: A drift of the whole model that is not beyond dreaming, below 1.
        high: One that is; at most 1.
        precision: How near the end of dreaming to go.

    Returns:
        None if no drift that was tried dreams.
    """
    dreaming: Drift | None = None

    def beyond(own: float, other: float) -> bool:
        nonlocal dreaming
        drift = with_parts(part, own, other)
        found = place(drift)
        if found == "dreaming":
            dreaming = drift  # each is farther than the one before it that dreamed
        return found == "beyond"

    whole = not beyond(1.0, 0.0)
    begin, end = (0.0, high) if whole else (low, 1.0)
    while end - begin > precision:
        middle = round((begin + end) / 2, 4)
        gone = beyond(1.0, middle) if whole else beyond(middle, 0.0)
        begin, end = (begin, middle) if gone else (middle, end)
    return dreaming
