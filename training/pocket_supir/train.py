"""Train the pocket's SUPIR, one stage per command; every command goes on from where it was stopped.

    python -m training.pocket_supir.train --stage autoencoder --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage denoise     --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage base        --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage control     --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage decoder     --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage assemble    --state STATE --out supir
    python -m training.pocket_supir.train --stage unpack      --state STATE

Each stage keeps ``last.ckpt``, its averaged weights (fp16) and a TensorBoard log in ``STATE/<stage>``, and
reads the averaged weights of those above it. ``decoder`` improves the autoencoder's decoder alone, so that
the latents stay; it can run beside any stage after ``autoencoder``. ``assemble`` writes the two models that
``model.supir`` and ``model.sdxl`` of the upscaler take, ``unpack`` takes those of the package apart, so that
``--init`` can begin with them.

A GPU is used where there is one. ``--stage paint --cache FOLDER --workers N`` paints all prints beforehand,
``--stage encode`` makes the latents of ``control`` while ``base`` trains, and ``--workers N`` prepares
batches beside the training, so that it does not wait.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from training.command_line import (
    add_training_options,
    command_parser,
    parse_training,
    run_command,
    use_threads,
)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    stages = [
        "paint",
        "encode",
        "autoencoder",
        "decoder",
        "denoise",
        "base",
        "control",
        "assemble",
        "unpack",
    ]
    parser.add_argument("--stage", required=True, choices=stages)
    parser.add_argument("--init", type=Path, help="base, control: another STATE whose weights to begin with")
    parser.add_argument("--dotted", action="store_true", help="more stars and snow among the scenes")
    parser.add_argument("--side", type=int, default=128, help="side of the squares of prints to train on")
    parser.add_argument("--variants", type=int, default=2, help="base, control: squares of a scene")
    parser.add_argument("--stop-after", type=float, help="stop this many minutes after the command began")
    add_training_options(parser, 4096, "200 MB")
    parser.add_argument("--out", type=Path, help="assemble: folder of the finished models")
    parser.add_argument(
        "--storage",
        default="int8",
        choices=["int8", "float8", "float16"],
        help="assemble: how weights are kept",
    )
    options = parse_training(parser, argv)
    if options.init and options.stage not in ("base", "control"):
        parser.error(f"--init is for the stages base and control, not for {options.stage}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    began = time.monotonic()
    args = arguments(argv)
    use_threads(args.threads)
    from training.pocket.run import train
    from training.pocket.scenes import Scenes, paint
    from training.pocket_supir.assembly import assemble
    from training.pocket_supir.dotted_scenes import DottedScenes
    from training.pocket_supir.models import PRINT
    from training.pocket_supir.stages import DEFAULTS, build_stage, encode
    from training.pocket_supir.unpacking import unpack

    if args.stage == "assemble":
        assemble(args.state, args.out or args.state / "supir", args.storage)
        return
    if args.stage == "unpack":
        unpack("pocket", "pocket", args.state)
        return
    if args.dotted:
        scenes: Scenes = DottedScenes(args.world, args.scenes, PRINT, args.cache and args.cache / "dotted")
    else:
        scenes = Scenes(args.world, args.scenes, PRINT, args.cache)
    if args.stage == "paint":
        paint(scenes, args.workers)
        return
    if args.stage == "encode":
        encode(args.state, scenes, args.side, args.variants, args.workers)
        return
    schedule = DEFAULTS[args.stage].with_options(args)
    stage = build_stage(
        args.stage,
        args.state,
        schedule,
        scenes,
        side=args.side,
        variants=args.variants,
        workers=args.workers,
        init=args.init,
    )
    left = None if args.stop_after is None else args.stop_after - (time.monotonic() - began) / 60
    train(stage, args.state / args.stage, args.precision, args.minutes, args.workers, left)


if __name__ == "__main__":
    run_command(main)
