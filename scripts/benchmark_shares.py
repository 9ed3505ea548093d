"""Where a fit's time goes: start, steps, grids, measures, checkpoints, by the clock and by arithmetic.

    .venv/bin/python scripts/benchmark_shares.py --trainer.max_steps 400 --seed_grid.steps 0,400
    .venv/bin/python scripts/benchmark_shares.py -c configs/dreambooth_sd15.yaml --data.instance_dir photos

It runs ``lightning-drift fit`` with the options that follow, in this process, and stops a watch around what
is not training. On a GPU the watch waits for the device. Arithmetic is that of ``fit --dry_run``; what is
taken from the base's pictures on disk is in it, and not on the clock. Delete ``seed_grid.cache_dir`` to time
a first fit of a base.

With ``--extrapolate 1600 4`` before all other options, a column says what the parts would take of a fit of
1600 steps and 4 grids, calculated from this one's seconds a step and a grid.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from lightning_drift import cli
from lightning_drift.drift.clip_drift import ClipDrift
from lightning_drift.fit.checkpointing import StepCheckpoint
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid

# What is timed as which part; measures are taken inside of a grid's milestone and are no part of it.
PARTS: list[tuple[str, type, list[str]]] = [
    ("photos", DreamBooth, ["on_fit_start"]),
    ("measures", ClipDrift, ["on_grid", "on_train_start", "on_fit_start", "on_train_batch_end"]),
    ("grids", SeedGrid, ["on_train_start", "on_train_batch_end"]),
    ("checkpoints", StepCheckpoint, ["on_train_batch_end", "on_train_end"]),
]
ONCE = ("start", "photos")
"""Parts that a longer fit does not take more of."""


class Size(NamedTuple):
    """How long a fit is."""

    steps: int
    grids: int


class Watch:
    """Seconds of each part; of parts within parts, each its own.

    Attributes:
        seconds: By part; "start" is what the command does before its first step, beside the other parts.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]
        self._begun = clock()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done meanwhile."""
        begin = clock()
        self._inner.append(0.0)
        try:
            yield
        finally:
            taken = clock() - begin
            self.seconds[name] += taken - self._inner.pop()
            self._inner[-1] += taken

    def around(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method that is timed as a part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return method(*args, **kwargs)

        return timed

    def started(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The training step, of which the first ends the start."""

        def marked(*args: Any, **kwargs: Any) -> Any:
            if "start" not in self.seconds:
                self.seconds["start"] = self._rest()
            return step(*args, **kwargs)

        return marked

    def ended(self) -> None:
        """What was timed as no part were the steps."""
        self.seconds["steps"] = self._rest()

    def _rest(self) -> float:
        return clock() - self._begun - sum(self.seconds.values())


def clock() -> float:
    """Seconds, after a device has finished what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def arithmetic(words: list[str]) -> tuple[dict[str, float], Size]:
    """FLOP of each part, from a fit's plan, and how long the fit is."""
    plan = cli.planned(["fit", *words, "--dry_run"])
    told = plan.rehearsals.get(plan.memory) or next(iter(plan.rehearsals.values()))
    size = Size((plan.end or 0) - plan.begin, len(plan.grids))
    flop = {
        "steps": told.arithmetic("step") * size.steps,
        "grids": told.arithmetic("grids", "decoding") * size.grids,
        "measures": told.arithmetic("measures", "CLIP") * size.grids,
    }
    return flop, size


def of_a_longer_fit(parts: Mapping[str, float], size: Size, longer: Size) -> dict[str, float]:
    """What the parts take of a longer fit of the same speed; checkpoints go with the grids."""
    per_grid = longer.grids / size.grids if size.grids else 0.0
    factors = dict.fromkeys(ONCE, 1.0) | {"steps": longer.steps / size.steps}
    return {name: part * factors.get(name, per_grid) for name, part in parts.items()}


def arguments(argv: Sequence[str]) -> tuple[list[str], Size | None]:
    """The command line: options of ``lightning-drift fit``, which checks them, and a longer fit."""
    if "-h" in argv or "--help" in argv:
        print(__doc__)
        raise SystemExit
    if argv[:1] != ["--extrapolate"]:
        return [*argv], None
    try:
        steps, grids = map(int, argv[1:3])
    except ValueError:
        raise SystemExit("error: --extrapolate takes two numbers, of steps and of grids") from None
    return [*argv[3:]], Size(steps, grids)


def main(words: list[str], longer: Size | None = None) -> int:
    """Time a fit and print the table."""
    flop, size = arithmetic(words)
    watch = Watch()
    for name, owner, methods in PARTS:
        for method in methods:
            setattr(owner, method, watch.around(name, getattr(owner, method)))
    DreamBooth.training_step = watch.started(DreamBooth.training_step)  # type: ignore[method-assign]
    if status := cli.main(["fit", *words]):
        return status
    watch.ended()
    columns = [("of the clock", watch.seconds), ("of the arithmetic", flop)]
    if longer:
        columns.append((f"of {longer.steps} steps", of_a_longer_fit(watch.seconds, size, longer)))
    print(f"{'':12}{'seconds':>10}" + "".join(f"{head:>19}" for head, _ in columns))
    for name, seconds in sorted(watch.seconds.items(), key=lambda part: (part[0] not in ONCE, -part[1])):
        line = f"{name:12}{seconds:10.1f}"
        for _, parts in columns:
            line += f"{parts[name] / sum(parts.values()):19.1%}" if name in parts else f"{'-':>19}"
        print(line)
    step = watch.seconds["steps"] / size.steps
    print(f"({step:.4f} seconds a step; start: the plan, and loading the base)")
    return 0


if __name__ == "__main__":
    sys.exit(main(*arguments(sys.argv[1:])))
