"""Which checkpoint to keep: as far along the corridor as the model still dreams."""

from dataclasses import dataclass

from lightning_drift.corridor import commands
from lightning_drift.corridor.recorded_run import CorridorCell
from lightning_drift.corridor.spread import siblings, spread
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.drift.verdict import ZONES
from lightning_drift.fit.runs import rate_text


@dataclass(frozen=True)
class Choice:
    """The chosen checkpoint, or what to try next.

    Attributes:
        cell: The checkpoint; None if none dreams.
        sentence: Why this one, or why none and what to change.
        export: The command that exports it; empty if there is no file to export.
        dream: The command that renders pictures with it; likewise.
    """

    cell: CorridorCell | None
    sentence: str
    export: str = ""
    dream: str = ""


def choose(table: CorridorTable) -> Choice:
    """Choose the farthest checkpoint that still dreams, one without a borderline verdict if there is any.

    Where a recipe was fitted with several seeds, a step at which all of them dream goes before one at which
    it is luck. Of two in the same position the one with a file wins, then the lower rate.
    """
    measured = [cell for cell in table.cells.values() if cell.zone is not None]
    dreaming = [cell for cell in measured if cell.zone == "dreaming"]
    if not measured:
        return Choice(None, "No verdict is available, so none is chosen; compare the grids by eye.")
    if not dreaming:
        return Choice(None, f"No checkpoint dreams. {_advice(measured)}")
    kin = siblings(table)
    over_seeds = {(cell.run, cell.step): spread(table, kin[cell.run], cell.step) for cell in dreaming}

    def agreed(cell: CorridorCell) -> bool:
        seeds = over_seeds[cell.run, cell.step]
        return seeds is None or len(seeds.zones) == 1

    clear = [cell for cell in dreaming if cell.borderline is None]
    clear = [cell for cell in clear if agreed(cell)] or clear
    rates = {run.name: run.rate for run in table.runs}

    def order(cell: CorridorCell) -> tuple[float, bool, float]:
        return cell.position or 0.0, cell.checkpoint is not None, -rates[cell.run]

    cell = max(clear or dreaming, key=order)
    where = f"Learning rate {rate_text(rates[cell.run])}, step {cell.step}"
    run = next(run for run in table.runs if run.name == cell.run)
    if run.soup:
        where = f"The soup of learning rate {run.label}, step {cell.step}"
    elif (seeds := over_seeds[cell.run, cell.step]) is not None:
        where += f", seed {run.seed} (over seeds: {seeds.verdict})"
    others = len(dreaming) - 1
    if clear:
        why = (
            "the farthest along the corridor that is clearly dreaming"
            if others
            else "the only one that dreams"
        )
    else:
        why = f"it dreams, but on the border of {cell.borderline}; no other is clearer"
    if cell.checkpoint is None:
        return Choice(cell, f"{where}: {why}. Its checkpoint was not kept, or lies elsewhere.")
    return Choice(cell, f"{where}: {why}.", commands.export(table, cell), commands.dream(cell))


def _advice(measured: list[CorridorCell]) -> str:
    zones = {ZONES.index(str(cell.zone)) for cell in measured}
    if zones == {0}:
        return "All of them are under-drifted: train longer, or raise the learning rate."
    if 0 not in zones:
        return "All of them have gone past it: look at earlier steps, or lower the learning rate."
    return "The corridor lies between two of them: look at steps or learning rates in between."
