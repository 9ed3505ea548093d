"""Which rates and steps a corridor covers, where its runs lie, and what every one of its fits shares."""

import math
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_drift.common.atomic import atomic_write
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.number_lists import decimals, integers
from lightning_drift.common.numbers import MAX_SEED_EVERYTHING
from lightning_drift.common.yaml_files import read_yaml
from lightning_drift.fit.configuration import TENSORBOARD, differences, same_class, with_prompts
from lightning_drift.fit.learning_rate import check_rate
from lightning_drift.fit.runs import rate_name, rate_text, safe_name

PLAN, FIT = "plan.yaml", "fit.yaml"
"""In a corridor's folder: the rates and steps it covers, and the configuration that its fits share."""

OF_EACH_FIT = (
    r"model\.init_args\.learning_rate|trainer\.max_steps|trainer\.logger\.init_args\.(name|version)"
    r"|(step_checkpoint|seed_grid|clip_drift)\.steps|ckpt_path"
)
"""A pattern of the options that a corridor sets itself, fit by fit."""

# None of these changes a picture: those; where a fit computes, what ends it early, and how it shows its
# progress.
_FREE = re.compile(
    OF_EACH_FIT
    + r"|trainer\.(accelerator|devices|enable_progress_bar)|step_checkpoint\..*|clip_drift\.stop_when"
    r"|data\..*num_workers"
)


_NO_RECIPE = re.compile(f"{_FREE.pattern}|seed_everything")


class Row(NamedTuple):
    """A fit of a corridor, which is a row of its map.

    Attributes:
        rate: The learning rate.
        seed: The training's seed; None for that of the shared configuration.
    """

    rate: float
    seed: int | None = None

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return rate_name(self.rate) + ("" if self.seed is None else f"_seed{self.seed}")

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"lr {rate_text(self.rate)}" + ("" if self.seed is None else f", seed {self.seed}")


@dataclass(frozen=True)
class Plan:
    """A corridor: one fit per learning rate and seed, looked at after each of the steps.

    The learning rate is constant, so the fit that reaches the last step has passed all the others.

    Args:
        root: The TensorBoard log folder.
        subject: Groups the runs on one set of photos.
        name: The corridor's folder in the subject's.
        rates: Learning rates, ascending.
        steps: Optimizer steps above 0, ascending.
        fit: The configuration of ``lightning-drift fit`` that all rates share.
        seeds: Seeds of the trainings, ascending; empty for that of the configuration.
    """

    root: Path
    subject: str
    name: str
    rates: tuple[float, ...]
    steps: tuple[int, ...]
    fit: dict[str, Any]
    seeds: tuple[int, ...] = ()

    @property
    def rows(self) -> list[Row]:
        """All its fits: ascending in the learning rate, then in the seed."""
        return rows(self.rates, self.seeds, self.fit)

    @property
    def folder(self) -> Path:
        """Where the corridor's runs and its page lie."""
        return self.root / self.subject / self.name

    def run(self, row: Row) -> Path:
        """The run folder of a fit."""
        return self.folder / row.name

    def options(self, row: Row) -> list[str]:
        """The command line options of a fit beside the shared configuration."""
        steps = ",".join(map(str, self.steps))
        options = {
            "model.learning_rate": repr(row.rate),
            "trainer.max_steps": str(self.steps[-1]),
            "trainer.logger.init_args.name": self.subject,
            "trainer.logger.init_args.version": f"{self.name}/{row.name}",
            "step_checkpoint.steps": steps,
            "seed_grid.steps": f"0,{steps}",
        }
        # null measures wherever the seed grid renders, an empty list nowhere
        if (self.fit.get("clip_drift") or {}).get("steps"):
            options["clip_drift.steps"] = f"0,{steps}"
        if row.seed is not None:
            options["seed_everything"] = str(row.seed)
        return [f"--{key}={value}" for key, value in options.items()]


def recipe_key(config: Mapping[str, Any]) -> Hashable:
    """Something that two fits share that differ at most in what decides no picture, and in their seeds.

    An option that is null is one that is not there. Classes are compared by name: nothing is imported for a
    configuration of somebody else.
    """
    return _frozen(config, "")


def _frozen(value: Any, key: str) -> Hashable:
    """A configuration's value as one that can be compared with many at once; ``key`` is where it stands."""
    if isinstance(value, Mapping):
        inner = ((str(name), f"{key}.{name}" if key else str(name), child) for name, child in value.items())
        kept = [(name, _frozen(child, path)) for name, path, child in inner if not _NO_RECIPE.fullmatch(path)]
        return "section", frozenset(pair for pair in kept if pair[1] is not None)
    if isinstance(value, list | tuple):
        return "list", tuple(_frozen(child, "*") for child in value)
    return value if isinstance(value, Hashable) else repr(value)


def rows(rates: Iterable[float], seeds: Sequence[int], fit: Mapping[str, Any]) -> list[Row]:
    """The fits of learning rates and seeds; the configuration's own seed is that of a corridor without any.

    Args:
        rates: Learning rates.
        seeds: Seeds; empty for the configuration's own.
        fit: The configuration that they share.
    """
    own = fit.get("seed_everything")
    return [Row(rate, None if seed == own else seed) for rate in rates for seed in seeds or (own,)]


def check_corridor_name(name: str) -> None:
    """Refuse what is no folder's name.

    Raises:
        UserError: It holds other characters than letters, digits, dots, hyphens and underscores.
    """
    if name != safe_name(name):
        raise UserError(
            f"{name!r} is not a folder's name; write for example {safe_name(name)}", "corridor.name"
        )


def make_plan(
    fit: dict[str, Any],
    rates: str | float | Iterable[float],
    steps: str | int | list[int],
    name: str,
    seeds: str | int | list[int] | None = None,
) -> Plan:
    """Place a corridor under its subject.

    Args:
        fit: The complete configuration of a fit.
        rates: Learning rates, as ``1e-6,2e-6,4e-6`` or numbers.
        steps: Optimizer steps, as ``800,1200,1600`` or numbers.
        name: The corridor's folder in the subject's.
        seeds: Seeds of the trainings, as ``0-2`` or numbers; None for the configuration's own.

    Raises:
        UserError: A list is not one of numbers in range, or the fits would write no event files.
    """
    logger = (fit.get("trainer") or {}).get("logger")
    if not isinstance(logger, dict) or not same_class(str(logger.get("class_path")), TENSORBOARD):
        raise UserError("a corridor is read from event files; keep the TensorBoard logger", "trainer.logger")
    settings = logger["init_args"]
    photos = Path(str((fit["data"].get("init_args") or {}).get("instance_dir", "run")))
    subject = settings.get("name") or safe_name(photos.resolve().name)
    check_corridor_name(name)
    if (fit.get("step_checkpoint") or {}).get("dirpath"):
        raise UserError(
            "the fits of a corridor would overwrite each other's checkpoints there; leave it out, and each "
            "keeps its own in its run folder",
            "step_checkpoint.dirpath",
        )
    fit = {**fit, "ckpt_path": None}
    if grid := fit.get("seed_grid"):  # all fits render the prompts of now, whenever they run
        fit["seed_grid"] = {**grid, "groups": with_prompts(grid.get("groups"))}
    return Plan(
        Path(settings["save_dir"]),
        subject,
        name,
        tuple(learning_rates(rates)),
        tuple(milestones(steps)),
        fit,
        tuple(training_seeds(seeds)),
    )


USUAL_RATE = 1e-2
"""Learning rates beyond it are for optimizers that find their own step size."""
MOST_STEPS, MOST_LOOKS = 2**53, 1000
"""The last optimizer step, and how many steps are looked at, at most."""
MOST_SEEDS = 100
"""Fits of one learning rate at most."""
_EXAMPLE = "1e-6,2e-6,4e-6"


def learning_rates(value: str | float | Iterable[float]) -> list[float]:
    """Read a list of learning rates; ascending, without repetitions.

    Raises:
        UserError: An item is no number above 0 and up to 1, or two would share a folder's name.

    >>> learning_rates("4e-6, 1e-6")
    [1e-06, 4e-06]
    """
    try:
        numbers = decimals(value, "corridor.lr")
        # A message shows 2 as it was written, not 2.0.
        rates = sorted(check_rate(int(n) if n.is_integer() else n, "corridor.lr") for n in numbers)
    except UserError as error:
        raise UserError(f"{error.message}; a list is {_EXAMPLE}", "corridor.lr") from error
    names: dict[str, float] = {}
    for rate in rates:
        if names.setdefault(rate_name(rate), rate) != rate:
            raise UserError(
                f"{names[rate_name(rate)]!r} and {rate!r} would share the folder {rate_name(rate)}; keep one",
                "corridor.lr",
            )
    if rates[-1] > USUAL_RATE:
        notice(
            f"corridor.lr: a rate of {rate_text(rates[-1])} is beyond {rate_text(USUAL_RATE)}, where a fit "
            "leaves the corridor at once; only optimizers that find their own step size (Prodigy, "
            "D-Adaptation) take it"
        )
    return rates


def milestones(value: str | int | list[int]) -> list[int]:
    """Read the steps of a corridor; ascending, without repetitions.

    Raises:
        UserError: It is not a list of whole numbers above 0, or of more than 1000.
    """
    steps = sorted(integers(value, "corridor.steps", high=MOST_STEPS))
    if steps[0] < 1:
        raise UserError("give optimizer steps above 0; the base model at 0 is always shown", "corridor.steps")
    if len(steps) > MOST_LOOKS:
        raise UserError(f"{len(steps):,} steps are more than {MOST_LOOKS}; give fewer", "corridor.steps")
    return steps


def training_seeds(value: str | int | list[int] | None) -> list[int]:
    """Read the seeds of a corridor; ascending, without repetitions; none where none are given.

    Raises:
        UserError: It is not a list of whole numbers from 0 to 2**32 - 1, or of more than 100.
    """
    if value is None:
        return []
    seeds = sorted(integers(value, "corridor.seeds", high=MAX_SEED_EVERYTHING))
    if len(seeds) > MOST_SEEDS:
        raise UserError(f"{len(seeds):,} seeds are more than {MOST_SEEDS}; give fewer", "corridor.seeds")
    return seeds


def joined(plan: Plan) -> Plan:
    """Join a plan with the one in its folder.

    Rates, steps and seeds of earlier calls stay in the corridor. Its fits must not differ in anything else.

    Returns:
        The plan with the earlier rates, steps and seeds.

    Raises:
        UserError: The folder holds a corridor whose fits were set up in another way.
    """
    earlier = read_plan(plan.folder)
    if earlier is not None:
        rates, steps, seeds, fit = earlier
        changes = differences(fit, plan.fit, _FREE)
        if changes:
            changed = [f"{key}: {old} -> {new}" for key, (old, new) in changes.items()]
            shown = "; ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise UserError(
                f"{plan.folder} holds a corridor whose fits were set up in another way ({shown}). Repeat "
                "that setting to go on with it, or give this corridor another folder with --name"
            )
        all_rates, all_steps = sorted({*plan.rates, *rates}), sorted({*plan.steps, *steps})
        all_seeds = {*plan.seeds, *seeds}
        if all_seeds and not (plan.seeds and seeds):  # one of the two was fitted with the configuration's own
            own = plan.fit.get("seed_everything")
            all_seeds |= {own} if isinstance(own, int) and not isinstance(own, bool) else set()
        plan = replace(plan, rates=tuple(all_rates), steps=tuple(all_steps), seeds=tuple(sorted(all_seeds)))
    return plan


def take_up(plan: Plan) -> Plan:
    """Join a plan with the one in its folder, and write it there.

    Raises:
        UserError: As `joined`.
    """
    plan = joined(plan)
    _write(plan.folder / FIT, plan.fit, "what all fits of this corridor share")
    covers = {"lr": list(plan.rates), "steps": list(plan.steps)}
    covers |= {"seeds": list(plan.seeds)} if plan.seeds else {}
    _write(plan.folder / PLAN, covers, "what it covers")
    return plan


def read_plan(folder: Path) -> tuple[list[float], list[int], list[int], dict[str, Any]] | None:
    """Rates, steps, seeds and shared configuration in a corridor's folder; None if it is not a corridor's.

    Raises:
        UserError: A file is missing or damaged.
    """
    if not os.path.lexists(folder / PLAN):
        return None
    try:
        plan, fit = (read_yaml(folder / name, "plan") for name in (PLAN, FIT))
        rates, steps = [float(rate) for rate in plan["lr"]], milestones([int(step) for step in plan["steps"]])
        if not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise ValueError("a learning rate is none")
        return rates, steps, training_seeds(plan.get("seeds")), dict(fit)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(
            f"{folder / PLAN} or {FIT} beside it is damaged ({type(error).__name__}); delete {PLAN} and give "
            "all rates, steps and seeds again"
        ) from error


def plan_at(folder: Path) -> Plan:
    """The corridor in a folder, as the fits of it see it.

    Raises:
        UserError: It is no corridor's folder, its plan is damaged, or it was begun from another working
            folder, which its relative paths lead from.
    """
    found = read_plan(folder)
    if found is None:
        raise UserError(f"{folder} is no corridor's folder: there is no {PLAN} in it")
    rates, steps, seeds, fit = found
    plan = make_plan(fit, rates, steps, folder.name, seeds or None)
    if plan.folder.resolve() != folder.resolve():
        raise UserError(
            f"{folder} is not {plan.folder}, as its fits would call it; start this where it was begun"
        )
    return plan


def _write(path: Path, content: dict[str, Any], what: str) -> None:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    with atomic_write(path) as file:
        file.write(f"# lightning-drift corridor: {what}\n{text}".encode())
