"""A corridor in words: its runs' names, its cells, and the sentences at the head of its page."""

import re
from collections import Counter

from lightning_drift.corridor.choice import Choice
from lightning_drift.corridor.recorded_run import CorridorCell, RecordedRun
from lightning_drift.corridor.spread import siblings
from lightning_drift.corridor.table import CorridorTable


def labels(table: CorridorTable) -> list[str]:
    """The runs' names for people: learning rates, and where runs share one their seeds or folders."""
    kin = siblings(table)
    rates = {run.name: run.label for run in table.runs}
    shared = Counter(rates.values())
    fits: dict[str, list[RecordedRun]] = {}
    for each in table.runs:
        if not each.soup:
            fits.setdefault(rates[each.name], []).append(each)

    def label(run: RecordedRun) -> str:
        if shared[rates[run.name]] == 1:
            return f"lr {run.label}"
        alike = fits.get(rates[run.name], [])
        if run.soup and len(kin[alike[0].name] if alike else []) == len(alike):
            return f"lr {run.label}, soup"
        return f"lr {run.label}, seed {run.seed}" if len(kin[run.name]) == len(alike) else run.name

    return [label(run) for run in table.runs]


def long_labels(table: CorridorTable) -> list[str]:
    """The same for sentences, with "learning rate" in full."""
    return [re.sub("^lr ", "learning rate ", label) for label in labels(table)]


def extent(table: CorridorTable) -> str:
    """How many learning rates (or fits, where some share a rate) and milestones it covers."""
    kind = "fit" if shared_rates(table) else "learning rate"
    soups, steps = sum(run.soup for run in table.runs), len(table.steps)
    fits = len(table.runs) - soups
    rows = f"{fits} {kind}{'s' * (fits != 1)}" + (f" and {soups} soup{'s' * (soups != 1)}" if soups else "")
    return f"Corridor, {rows} × {steps} milestone{'s' * (steps != 1)}"


def lead(table: CorridorTable, choice: Choice) -> str:
    """What came out, in a sentence or two."""
    states = [cell.state for cell in table.cells.values()]
    if nothing_ran(table):
        return choice_sentence(table, choice)
    missing = []
    if count := states.count("failed"):
        missing.append(f"{count} failed")
    if count := states.count("not run"):
        missing.append(f"{count} {'has' if count == 1 else 'have'} not run yet")
    rest = f" Of {len(states)} cells, {' and '.join(missing)}." if missing else ""
    if choice.cell is None:
        return choice.sentence + rest
    run = next(run for run in table.runs if run.name == choice.cell.run)
    border = f", on the border of {choice.cell.borderline}" if choice.cell.borderline else ""
    if run.label in shared_rates(table):
        name = dict(zip([other.name for other in table.runs], labels(table), strict=True))[run.name]
        where = f"After {choice.cell.step} steps of {name}"
    else:
        where = f"At learning rate {run.label} and {choice.cell.step} steps"
    return f"{where} the model dreams{border}: {choice.cell.position:.0f} of 100.{rest}"


def nothing_ran(table: CorridorTable) -> bool:
    """Whether no fit has come to a milestone."""
    return all(cell.state in ("not run", "failed") for cell in table.cells.values())


def choice_sentence(table: CorridorTable, choice: Choice) -> str:
    """Why this checkpoint is chosen, or why none is."""
    if not nothing_ran(table):
        return choice.sentence
    failed = any(cell.state == "failed" for cell in table.cells.values())
    return "No fit has reached a milestone, and at least one has failed." if failed else "No fit has run yet."


def cell_note(cell: CorridorCell) -> str:
    """A cell's position and the zone it is near, as far as it has them."""
    position = [] if cell.position is None else [f"{cell.position:.0f}"]
    return ", ".join([*position, *([f"near {cell.borderline}"] if cell.borderline else [])])


def cell_summary(cell: CorridorCell, label: str, chosen: bool) -> str:
    """A cell in one phrase, for those who hear the page.

    Args:
        cell: The cell.
        label: Its run's name.
        chosen: Whether it is the chosen checkpoint.
    """
    phrases = [f"{label}, {cell.step} steps: {cell.zone or cell.state}"]
    if cell.borderline:
        phrases.append(f"borderline {cell.borderline}")
    if cell.position is not None:
        phrases.append(f"{cell.position:.0f} of 100")
    if chosen:
        phrases.append("the chosen checkpoint")
    return ", ".join(phrases)


def reason(cell: CorridorCell) -> str:
    """The verdict without its first sentence, which repeats the zone and the position."""
    if cell.zone is None:
        return cell.verdict
    return re.sub(r"^\*\*[^*]+\*\*( \(borderline [^)]*\))?(, \d+ of 100)?\.\s*", "", cell.verdict)


def shared_rates(table: CorridorTable) -> set[str]:
    """Learning rates that several runs have; those runs go by their folders' names."""
    return {rate for rate, count in Counter(run.label for run in table.runs).items() if count > 1}
