"""A corridor in words: its runs' names, its cells, and the sentences at the head of its page."""

import re

from lightning_drift.corridor.choice import Choice
from lightning_drift.corridor.read import CorridorCell, CorridorTable


def labels(table: CorridorTable) -> list[str]:
    """The runs' names for people: the learning rates, or the folders where two runs share one."""
    rates = [run.label for run in table.runs]
    return [run.name if rates.count(run.label) > 1 else f"lr {run.label}" for run in table.runs]


def extent(table: CorridorTable) -> str:
    """How many fits and milestones it covers."""
    rates, steps = len(table.runs), len(table.steps)
    return f"Corridor, {rates} learning rate{'s' * (rates != 1)} × {steps} milestone{'s' * (steps != 1)}"


def lead(table: CorridorTable, choice: Choice) -> str:
    """What came out, in a sentence or two."""
    states = [cell.state for cell in table.cells.values()]
    missing = []
    if count := states.count("failed"):
        missing.append(f"{count} failed")
    if count := states.count("not run"):
        missing.append(f"{count} {'has' if count == 1 else 'have'} not run yet")
    rest = f" Of {len(states)} cells, {' and '.join(missing)}." if missing else ""
    if choice.cell is None:
        return choice.sentence + rest
    label = labels(table)[[run.name for run in table.runs].index(choice.cell.run)]
    border = f", on the border of {choice.cell.borderline}" if choice.cell.borderline else ""
    where = f"{re.sub('^lr ', 'learning rate ', label)} and {choice.cell.step} steps"
    return f"At {where} the model dreams{border}: {choice.cell.position:.0f} of 100.{rest}"


def cell_summary(cell: CorridorCell, label: str, chosen: bool) -> str:
    """A cell in one phrase, for those who hear the page.

    Args:
        cell: The cell.
        label: Its run's name.
        chosen: Whether it is the chosen checkpoint.
    """
    parts = [f"{label}, {cell.step} steps: {cell.zone or cell.state}"]
    if cell.borderline:
        parts.append(f"borderline {cell.borderline}")
    if cell.position is not None:
        parts.append(f"{cell.position:.0f} of 100")
    if chosen:
        parts.append("the chosen checkpoint")
    return ", ".join(parts)


def reason(cell: CorridorCell) -> str:
    """The verdict without its first sentence, which repeats the zone and the position."""
    return re.sub(r"^\*\*[^*]+\*\*[^.]*\d+ of 100\.\s*", "", cell.verdict) if cell.zone else cell.verdict
