"""What the commands of the trainings share; free of torch until a command's threads are set."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_drift.common.errors import UserError


def command_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_training_options(parser: argparse.ArgumentParser, scenes: int, block: str) -> None:
    """Add the options of `Schedule`, of the scenes and of the run.

    Args:
        parser: The command's.
        scenes: How many distinct scenes there are by default.
        block: Size of 1,024 scenes in the cache, in words.
    """
    parser.add_argument(
        "--state", type=Path, help="folder of checkpoints, logs and weights; every stage but paint needs it"
    )
    parser.add_argument(
        "--cache", type=Path, help=f"folder for painted scenes ({block} per 1,024); default: paint anew"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps in all; default: the stage's own")
    parser.add_argument("--batch-size", type=int, help="scenes in a step; default: the stage's own")
    parser.add_argument("--learning-rate", type=float, help="full learning rate; default: the stage's own")
    parser.add_argument(
        "--cooldown", type=float, default=0.4, help="fraction of the steps with a falling rate"
    )
    parser.add_argument("--scenes", type=int, default=scenes, help="number of distinct scenes")
    parser.add_argument("--world", type=int, default=0, help="seed of the world")
    parser.add_argument("--seed", type=int, help="seed of initialisation, order and noise")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--workers", type=int, default=0, help="processes that paint and prepare batches")
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning precision: bf16-mixed, 32-true")
    parser.add_argument("--minutes", type=float, default=4.0, help="minutes between checkpoints")


def parse_training(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read a training's command line; its parser has ``--stage`` and `add_training_options`."""
    options = parser.parse_args(argv)
    if options.stage == "paint" and options.cache is None:
        parser.error("--stage paint needs --cache FOLDER to paint into")
    if options.stage != "paint" and options.state is None:
        parser.error(f"--stage {options.stage} needs --state FOLDER")
    return options


def use_threads(count: int) -> None:
    """Let torch and the processes that a command starts compute on so many threads."""
    os.environ.setdefault("OMP_NUM_THREADS", str(count))
    import torch

    torch.set_num_threads(count)


def run_command(main: Callable[[], None]) -> None:
    """Run a command; a `UserError` becomes one line on standard error and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
