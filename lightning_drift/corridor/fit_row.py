"""What ``corridor fit`` runs: the rest of one fit of a corridor, on whatever machine it was started."""

from pathlib import Path

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.common.text import listed
from lightning_drift.corridor.fits import remove_unsaved, unfinished
from lightning_drift.corridor.plan import FIT, plan_at


def fit_words(folder: Path, run: str) -> list[str] | None:
    """The command that does what is left of a fit; what it left before its first checkpoint is deleted.

    Args:
        folder: The corridor's folder.
        run: The name of the fit's run folder in it, such as ``lr2e-6``.

    Returns:
        The arguments after the program's name; None if nothing is left.

    Raises:
        UserError: There is no such corridor or fit, or another process writes the run.
    """
    plan = plan_at(folder)
    row = next((row for row in plan.rows if row.name == run), None)
    if row is None:
        raise UserError(
            f"{shown(run)} is no fit of {folder}; they are {listed(row.name for row in plan.rows)}"
        )
    left, checkpoint, _ = unfinished(plan, row)
    if not left:
        return None
    words = ["fit", "-c", str(plan.folder / FIT), *plan.options(row)]
    if checkpoint is not None:
        return [*words, f"--ckpt_path={checkpoint}"]
    if plan.run(row).exists():
        remove_unsaved(plan.run(row))
    return words
