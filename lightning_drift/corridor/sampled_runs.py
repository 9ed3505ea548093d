"""Which runs of a long corridor a chart and a contact sheet show, where all would be too many to look at."""

from lightning_drift.corridor.choice import Choice
from lightning_drift.corridor.table import CorridorTable

MOST_RUNS = 60
"""Runs that are shown together."""


def sampled_runs(table: CorridorTable, choice: Choice) -> list[int]:
    """The positions of the runs to show: all, or evenly spaced ones from the lowest to the highest rate.

    The chosen checkpoint's run is among them.
    """
    count = len(table.runs)
    if count <= MOST_RUNS:
        return list(range(count))
    positions = {round(index * (count - 1) / (MOST_RUNS - 1)) for index in range(MOST_RUNS)}
    if choice.cell is not None:
        chosen = next(index for index, run in enumerate(table.runs) if run.name == choice.cell.run)
        if chosen not in positions:  # in place of its neighbour, which is neither the first nor the last
            inner = sorted(positions)[1:-1]
            positions.remove(min(inner, key=lambda position: abs(position - chosen)))
            positions.add(chosen)
    return sorted(positions)


def how_many(table: CorridorTable, shown: int) -> str:
    """Which of the runs are shown, in words; empty where all are."""
    if shown == len(table.runs):
        return ""
    return f"{shown} of the {len(table.runs):,} runs, evenly spaced, the chosen one among them"
