"""The plan of a corridor: what is left to fit, and what all fits together will take."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lightning_drift.common.text import byte_size, duration
from lightning_drift.corridor.fits import unfinished
from lightning_drift.corridor.plan import Plan, Row
from lightning_drift.fit.checkpoint_room import room_needed, saved_files
from lightning_drift.fit.checkpointing import MARGIN
from lightning_drift.fit.runs import rate_text
from lightning_drift.forecast.plan import FitPlan
from lightning_drift.launchers.job import Launcher
from lightning_drift.launchers.local import LocalLauncher

PlanFit = Callable[[list[str]], FitPlan | None]
"""Gives the plan of a fit by its command line."""


@dataclass(frozen=True)
class _Left:
    """What is left to do of a fit."""

    row: Row
    steps: list[int]
    checkpoint: Path | None
    begin: int


def describe(
    plan: Plan, rows: Sequence[Row], launcher: Launcher, plan_fit: PlanFit, card: float | None
) -> str:
    """What a corridor would do, in lines; nothing is written.

    Args:
        plan: The corridor, joined with what its folder holds.
        rows: The fits to run.
        launcher: Where they would run.
        plan_fit: Plans a fit.
        card: GiB of a card to compare with; None for the one that is here.

    Raises:
        UserError: A fit cannot run as it is set up.
    """
    left = [each for row in rows if (each := _Left(row, *unfinished(plan, row))).steps]
    shown = ", ".join(map(rate_text, plan.rates))
    lines = [f"corridor  {plan.folder}: {shown}, looked at after {', '.join(map(str, plan.steps))} steps"]
    begun_rows, asked = {each.row: each for each in left}, {*rows}
    for row in plan.rows:
        begun = begun_rows.get(row)
        state = (
            "finished"
            if begun is None
            else f"goes on at step {begun.begin}"
            if begun.begin
            else "to be fitted"
        )
        lines.append(f"          {row.label}: {state if row in asked else 'not in this call'}")
    if not left:
        return "\n".join(lines)
    fit = _plan_of(plan, left[0], launcher, plan_fit, card)
    lines += ["", *_together(plan, left, launcher, fit), "", f"The fit at {left[0].row.label}:"]
    return "\n".join([*lines, *(f"  {line}".rstrip() for line in fit.describe().splitlines())])


def _plan_of(plan: Plan, left: _Left, launcher: Launcher, plan_fit: PlanFit, card: float | None) -> FitPlan:
    slot = launcher.slots[0] if isinstance(launcher, LocalLauncher) else None
    with tempfile.TemporaryDirectory(prefix="corridor-") as scratch:
        shared = Path(scratch) / "fit.yaml"
        shared.write_text(yaml.safe_dump(plan.fit), encoding="utf-8")
        words = ["fit", "-c", str(shared), *plan.options(left.row), "--dry_run"]
        words += [f"--ckpt_path={left.checkpoint}"] if left.checkpoint is not None else []
        words += [f"--card={card:g}"] if card is not None else []
        words += ["--trainer.accelerator=cpu"] if slot == "cpu" else []
        if slot not in (None, "cpu"):
            os.environ["CUDA_VISIBLE_DEVICES"] = str(slot)
        planned = plan_fit(words)
    assert planned is not None, "a dry run ends in a plan"
    return planned


def _together(plan: Plan, left: Sequence[_Left], launcher: Launcher, fit: FitPlan) -> list[str]:
    """Time and disk of all fits."""
    at_once = min(launcher.places() or len(left), len(left))
    lines = [f"fits      {len(left)}, on {launcher.describe()}"]
    if fit.times is not None:
        steps = sum(plan.steps[-1] - each.begin for each in left) * fit.times.step
        grids = sum(len(each.steps) + (not each.begin) for each in left)
        pictures = grids * (fit.times.grid or 0) if fit.grids else 0
        together = (steps + pictures) / at_once
        lines.append(f"time      about {duration(together)} for all ({fit.times.how})")
    if fit.checkpoint is not None:
        saver = plan.fit["step_checkpoint"]
        rooms = [
            room_needed(
                plan.steps,
                saver["last_every_n_steps"],
                saver["keep"],
                each.begin,
                plan.steps[-1],
                fit.checkpoint,
                saved_files(plan.run(each.row) / "checkpoints"),
            )
            for each in left
        ]
        # What is there only while a file is written is there for as many fits as run at once.
        passing = sorted((most - end for most, end in rooms), reverse=True)[:at_once]
        needed = sum(end for _, end in rooms) + sum(passing) + MARGIN
        lines.append(f"disk      up to {byte_size(needed)} of checkpoints, {byte_size(fit.free)} are free")
        if needed > fit.free:
            lines.append("          there is no room for it: a fit that could not end will refuse to start")
    return lines
