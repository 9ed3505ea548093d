"""Which way of keeping weights a fit takes where it may choose: the first that fits the card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lightning_drift.common.errors import UserError
from lightning_drift.forecast.card import GIB, Card, needed
from lightning_drift.forecast.rehearsal import Rehearsal


@dataclass(frozen=True)
class MemoryChoice:
    """A mode of ``model.memory``, and why.

    Attributes:
        mode: The mode.
        reason: Why, as a sentence without a full stop.
        rehearsals: What was counted, by mode.
    """

    mode: str
    reason: str
    rehearsals: dict[str, Rehearsal] = field(default_factory=dict)


def choose_mode(modes: Sequence[str], rehearse: Callable[[str], Rehearsal], card: Card) -> MemoryChoice:
    """The first mode whose forecast fits the free memory of a card.

    What may be done on the CPU (`Rehearsal.movable`) decides nothing.

    Args:
        modes: The modes from the one that takes most memory and least time on; the first is always possible.
        rehearse: Counts a mode; raises a UserError for one that the other options of the fit exclude.
        card: The card.

    Raises:
        UserError: None fits; it says what would.
    """
    told: dict[str, Rehearsal] = {}
    needs: dict[str, float] = {}
    free = f"{card.free / GIB:.1f} GiB {'is' if card.free == GIB else 'are'} free on {card.name}"
    for mode in modes:
        try:
            told[mode] = rehearse(mode)
        except UserError as error:
            if mode == modes[0]:
                raise
            most = f"{modes[0]} needs about {needs[modes[0]] / GIB:.1f} GiB and {free}"
            return MemoryChoice(modes[0], f"{most}, but nothing else is possible: {error.message}", told)
        needs[mode] = needed(told[mode].peak)
        if needs[mode] <= card.free:
            return MemoryChoice(mode, f"{_compared(needs)}; {free}", told)
    raise UserError(
        f"no way of keeping the weights fits: {_compared(needs)}, and {free}. Close what else uses the card, "
        f"lower {_lever(told[modes[-1]])}, or leave the text encoder frozen (model.train_text_encoder false)",
        "model.memory",
    )


def _compared(needs: dict[str, float]) -> str:
    *others, last = needs
    said = f"{last} needs about {needs[last] / GIB:.1f} GiB"
    return said + "".join(f", {mode} {needs[mode] / GIB:.1f}" for mode in reversed(others))


def _lever(least: Rehearsal) -> str:
    """What lowers the peak."""
    own = {"grids": "seed_grid.batch_size", "decoding": "seed_grid.height and seed_grid.width"}
    return own.get(least.phase(), "data.resolution or data.batch_size")
