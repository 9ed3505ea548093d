"""The options that the pocket's training scripts share; free of torch, whose threads they set."""

import argparse
from pathlib import Path


def add_training_options(parser: argparse.ArgumentParser, scenes: int, block: str) -> None:
    """Add the options of `Schedule`, of the scenes and of the run.

    Args:
        parser: The script's.
        scenes: How many distinct scenes there are by default.
        block: Size of 1,024 scenes in the cache, in words.
    """
    parser.add_argument(
        "--cache", type=Path, help=f"folder for painted scenes ({block} per 1,024); none: paint anew"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps in all")
    parser.add_argument("--batch-size", type=int, help="scenes in a step")
    parser.add_argument("--learning-rate", type=float, help="full learning rate")
    parser.add_argument(
        "--cooldown", type=float, default=0.4, help="fraction of the steps with a falling rate"
    )
    parser.add_argument("--scenes", type=int, default=scenes, help="number of distinct scenes")
    parser.add_argument("--world", type=int, default=0, help="seed of the world")
    parser.add_argument("--seed", type=int, help="seed of initialisation, order and noise")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--workers", type=int, default=0, help="processes that paint and prepare batches")
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning precision, bf16-mixed or 32")
    parser.add_argument("--minutes", type=float, default=4.0, help="time between checkpoints")
