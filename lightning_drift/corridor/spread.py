"""What of a verdict is the recipe and what is luck: fits that differ in nothing but their seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from lightning_drift.corridor.plan import recipe_key
from lightning_drift.corridor.recorded_run import CorridorCell, RecordedRun
from lightning_drift.corridor.table import CorridorTable
from lightning_drift.drift.verdict import ZONES


@dataclass(frozen=True)
class Spread:
    """The cells of one learning rate and step over seeds.

    Attributes:
        cells: Those with a verdict, one a seed.
    """

    cells: tuple[CorridorCell, ...]

    @property
    def zones(self) -> dict[str, int]:
        """How many seeds are in each zone, in the order of the corridor."""
        found = [cell.zone for cell in self.cells]
        return {zone: found.count(zone) for zone in ZONES if zone in found}

    @property
    def zone(self) -> str:
        """The zone of most seeds; of equally many the one farther along the corridor."""
        return max(reversed(self.zones), key=self.zones.__getitem__)

    @property
    def verdict(self) -> str:
        """How far the seeds agree, in words."""
        if len(self.zones) == 1:
            return f"{self.zone}, all {len(self.cells)}"
        return ", ".join(f"{zone} {count}" for zone, count in self.zones.items())

    @property
    def position(self) -> str:
        """The mean position and its range; empty where fewer than two seeds have one."""
        positions = [cell.position for cell in self.cells if cell.position is not None]
        if len(positions) < 2:
            return ""
        return f"{fmean(positions):.0f}, from {min(positions):.0f} to {max(positions):.0f}"


def siblings(table: CorridorTable) -> dict[str, list[RecordedRun]]:
    """By run the runs of its recipe, itself included, one for each seed; itself where there are no others."""
    found: dict[str, list[RecordedRun]] = {}
    groups: dict[object, list[RecordedRun]] = {}
    for run in (run for run in table.runs if not run.soup):
        group = groups.setdefault((run.rate, recipe_key(run.config)), [])
        if run.seed not in [other.seed for other in group]:
            group.append(run)
    for group in groups.values():
        found |= {run.name: group for run in group}
    return {run.name: found.get(run.name, [run]) for run in table.runs}


def spread(table: CorridorTable, runs: list[RecordedRun], step: int) -> Spread | None:
    """Runs of one recipe at a step; None where fewer than two of them have a verdict."""
    cells = tuple(cell for run in runs if (cell := table.cells[run.name, step]).zone is not None)
    return Spread(cells) if len(cells) > 1 else None


def spreads(table: CorridorTable) -> Mapping[str, list[Spread | None]]:
    """The spread at every step, by learning rate; of rates with several seeds."""
    found: dict[str, list[Spread | None]] = {}
    for runs in {id(group): group for group in siblings(table).values()}.values():
        cells = [spread(table, runs, step) for step in table.steps]
        if any(cells) and runs[0].label not in found:
            found[runs[0].label] = cells
    return found
