"""What a search needs of its fits, what it knows of them by their files, and what it would do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError
from lightning_drift.corridor.fits import Fit
from lightning_drift.corridor.plan import Plan, Row, joined
from lightning_drift.corridor.searcher import Known, MilestoneVerdict, RateSearch
from lightning_drift.drift.verdict import ZONES
from lightning_drift.fit.runs import rate_text
from lightning_drift.launchers.extras import extra
from lightning_drift.launchers.options import Engine
from lightning_drift.launchers.ray_engine import Ray

MOST_FITS = 1000
"""Fits of a search."""


def search_engine(
    rates: list[float], seeds: list[int], options: Mapping[str, Any], engine: Engine | None
) -> Engine:
    """What a search runs on: Ray, one of this machine where none is named.

    Raises:
        UserError: An option does not go with a search, or Ray Tune is not installed.
    """
    if len(rates) < 2:
        raise UserError(
            "a search is for a range; give its lowest and its highest rate, such as 1e-6,8e-6", "corridor.lr"
        )
    if len(seeds) > 1:
        raise UserError("a search is for one seed; fit the rate that it finds with several", "corridor.seeds")
    if engine is not None and engine.name != "ray":
        raise UserError(
            f"a search runs by Ray Tune, and not by {engine.name}; give --launcher ray, or none", "launcher"
        )
    if options.get("devices") is not None:
        raise UserError(
            "Ray places the fits of a search; leave it out, and give --launcher ray with --launcher.gpus",
            "corridor.devices",
        )
    extra("ray.tune", "ray")
    return engine or Engine("ray", Ray(address="local"))


def check_verdicts(fit: Mapping[str, Any]) -> None:
    """Refuse fits that will have no verdicts: a search goes by them.

    Args:
        fit: The configuration of the fits.

    Raises:
        UserError: Something is switched off that a verdict needs; it is named.
    """
    drift, grid = fit.get("clip_drift"), fit.get("seed_grid")
    if not grid:
        raise UserError("a search goes by verdicts, and without a seed grid there are none", "seed_grid")
    if not drift or drift.get("clip") is None:
        raise UserError("a search goes by verdicts, and without a CLIP there are none", "clip_drift.clip")
    if drift.get("steps") == []:
        raise UserError("a search goes by verdicts, and these fits are measured nowhere", "clip_drift.steps")
    if not drift.get("language"):
        raise UserError(
            "a search goes by verdicts, and without language prompts there are none", "clip_drift.language"
        )


def readings(run: Path, steps: Sequence[int]) -> dict[int, MilestoneVerdict]:
    """The verdicts of a fit at its milestones, as its files tell them; a damaged one is passed over.

    Args:
        run: Its run folder.
        steps: The milestones.
    """
    found = {}
    for step in steps:
        try:
            with open(run / "drift" / f"step={step:05d}.json", encoding="utf-8") as file:
                said = json.load(file)
            zone, border, position = said["zone"], said["borderline"], said["position"]
            if zone in ZONES and (border is None or border in ZONES):
                found[step] = MilestoneVerdict(zone, border, None if position is None else float(position))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


def begun(plan: Plan, row: Row) -> bool:
    """Whether a fit of a corridor was begun, however it went."""
    return plan.run(row).is_dir() or Fit(plan, row).log.exists()


def refuse_seeds(plan: Plan) -> None:
    """Refuse a corridor with several seeds.

    Raises:
        UserError: It has several.
    """
    if len(plan.seeds) > 1:
        raise UserError(
            f"{plan.folder} has several seeds; a search is for one. Give it a folder of its own with --name",
            "corridor.search",
        )


def describe_search(plan: Plan, most: int) -> str:
    """What a search would do, in lines; nothing is started or written.

    Args:
        plan: The corridor; its lowest and highest rate are the ends of the range.
        most: How many fits are begun in all, at most.

    Raises:
        UserError: As `RateTuning`.
    """
    there = joined(replace(plan, rates=()))
    refuse_seeds(there)
    done = [row for row in there.rows if begun(there, row)]
    steps = ", ".join(map(str, there.steps))
    lines = [
        f"search    {plan.folder}: from {rate_text(plan.rates[0])} to {rate_text(plan.rates[-1])}, looked at "
        f"after {steps} steps",
        f"fits      {most} at most, on Ray; {len(done)} begun already"
        + (f" ({', '.join(rate_text(row.rate) for row in done)})" if done else ""),
    ]
    if len(done) < most:
        first = RateSearch(plan.rates[0], plan.rates[-1], there.steps).propose(
            {row.rate: Known(readings(there.run(row), there.steps)) for row in done}
        )
        lines.append(f"next      {'no rate promises more' if first is None else f'lr {rate_text(first)}'}")
    return "\n".join(lines)
