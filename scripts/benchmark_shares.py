"""Where a fit's time goes: steps, grids, measures, checkpoints, by the clock and by arithmetic.

    .venv/bin/python scripts/benchmark_shares.py --trainer.max_steps 400 --seed_grid.steps 0,400
    .venv/bin/python scripts/benchmark_shares.py -c configs/dreambooth_sd15.yaml --data.instance_dir photos

It runs ``lightning-drift fit`` with the options that follow, in this process, and stops a watch around what
is not training. On a GPU the watch waits for the device. Arithmetic is that of ``fit --dry_run``; what is
taken from the base's pictures on disk is in it, and not on the clock. Delete ``seed_grid.cache_dir`` to time
a first fit of a base.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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


class Watch:
    """Seconds of each part; of parts within parts, each its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

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


def clock() -> float:
    """Seconds, after a device has finished what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def arithmetic(words: list[str]) -> dict[str, float]:
    """FLOP of each part, from a fit's plan."""
    plan = cli.planned(["fit", *words, "--dry_run"])
    told = plan.rehearsals.get(plan.memory) or next(iter(plan.rehearsals.values()))
    grids = len(plan.grids)
    return {
        "steps": told.arithmetic("step") * ((plan.end or 0) - plan.begin),
        "grids": told.arithmetic("grids", "decoding") * grids,
        "measures": told.arithmetic("measures", "CLIP") * grids,
    }


def arguments(argv: Sequence[str]) -> list[str]:
    """The command line: options of ``lightning-drift fit``, which checks them."""
    if "-h" in argv or "--help" in argv:
        print(__doc__)
        raise SystemExit
    return [*argv]


def main(words: list[str]) -> int:
    """Time a fit and print the table."""
    watch = Watch()
    for name, owner, methods in PARTS:
        for method in methods:
            setattr(owner, method, watch.around(name, getattr(owner, method)))
    flop = arithmetic(words)
    with watch.part("all"):
        status = cli.main(["fit", *words])
    if status:
        return status
    whole = watch.seconds.pop("all") + sum(watch.seconds.values())
    rest = whole - sum(watch.seconds.values())
    print(f"{'':12}{'seconds':>10}{'of the clock':>14}{'of the arithmetic':>19}")
    for name, seconds in {"steps": rest, **watch.seconds}.items():
        share = f"{flop[name] / sum(flop.values()):.1%}" if name in flop else "-"
        print(f"{name:12}{seconds:10.1f}{seconds / whole:14.1%}{share:>19}")
    print("(steps: with the start of the command and the loading of the base)")
    return 0


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
