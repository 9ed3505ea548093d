"""A corridor or a search from its first fit to its last: what is said, and the page renewed on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lightning_drift.common import ends
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.text import printable, shell_word
from lightning_drift.corridor.choice import choose
from lightning_drift.corridor.plan import Plan, Row, take_up
from lightning_drift.corridor.read import read
from lightning_drift.corridor.report import write_report
from lightning_drift.fit.runs import rate_text
from lightning_drift.launchers.job import Launcher


def run_search(plan: Plan, most: int, launcher: Launcher) -> int:
    """Search for the rate that dreams farthest; the exit status."""
    from lightning_drift.corridor.search import RateTuning
    from lightning_drift.launchers.ray_engine import RayLauncher

    assert isinstance(launcher, RayLauncher)
    page = plan.folder / "corridor.html"
    ends_of_range = f"lr {rate_text(plan.rates[0])} to {rate_text(plan.rates[-1])}"
    shape = f"{ends_of_range} x {_counted(len(plan.steps), 'step')}, {_counted(most, 'fit')} at most"
    print(printable(f"searching {shape}, on {launcher.describe()}, in {plan.folder}"), flush=True)

    def renew() -> None:
        _renew(plan, page)

    search = RateTuning(plan, most, launcher, renew)
    try:
        _to_its_end(search)
    finally:
        if search.known:
            renew()
    if not search.known:
        raise UserError("no fit was begun", "corridor.search")
    table = read(plan.folder, own=True)
    cell = choose(table).cell
    used = f"{_counted(sum(not known.runs for known in search.known.values()), 'fit')} of {most}"
    if cell is None or cell.borderline is not None:
        print(f"\n{choose(table).sentence} ({used})", flush=True)
    else:
        rate = next(run.label for run in table.runs if run.name == cell.run)
        place = "" if cell.position is None else f", {cell.position:.0f} of 100"
        print(f"\nfarthest clearly dreaming: lr {rate} after {cell.step} steps{place} ({used})", flush=True)
    return _conclude(search.plan, page, search.failed)


class _Fits(Protocol):
    """Fits that run until none is left."""

    def run(self) -> None: ...

    def reached(self) -> str: ...


def _to_its_end(fits: _Fits) -> None:
    """Run them; a signal's end tells how far they have come."""
    try:
        fits.run()
    except ends.Ended as end:
        end.reached = f"with {fits.reached()}; all fits are stopped"
        raise


def _renew(plan: Plan, page: Path) -> None:
    """Write the page again; a failure is told."""
    try:
        write_report(plan.folder, page, own=True)
    except (OSError, UserError) as error:  # the page can be written again at any time, a fit cannot
        reason = error.strerror or error if isinstance(error, OSError) else error
        notice(f"cannot write {page}: {reason}; the fits go on")


def _conclude(plan: Plan, page: Path, failed: Sequence[Row]) -> int:
    """Say where everything is; the exit status."""
    print(
        f"\nThe page:     {printable(str(page))}\nContact sheet: {printable(str(page.with_suffix('.png')))}"
    )
    print(f"TensorBoard:  tensorboard --logdir {shell_word(str(plan.root / plan.subject))}", flush=True)
    if failed:
        notice(f"{'; '.join(row.label for row in failed)} did not reach step {plan.steps[-1]}")
        return 1
    return 0


def run_fits(plan: Plan, own_rows: list[Row], launcher: Launcher) -> int:
    """Run what a corridor lacks; the exit status."""
    from lightning_drift.corridor.fit_queue import FitQueue

    plan = take_up(plan)
    page = plan.folder / "corridor.html"
    shape = f"{_counted(len(plan.rates), 'learning rate')} x {_counted(len(plan.steps), 'step')}"
    shape += f" x {_counted(len(plan.seeds), 'seed')}" if len(plan.seeds) > 1 else ""
    print(printable(f"{shape} in {plan.folder}"), flush=True)

    def renew() -> None:
        _renew(plan, page)

    queue = FitQueue(plan, own_rows, launcher, renew)
    try:
        _to_its_end(queue)
    finally:
        renew()
    return _conclude(plan, page, queue.failed)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
