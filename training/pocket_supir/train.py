"""Train the pocket's SUPIR, one stage a command; every command goes on from where it was stopped.

    python -m training.pocket_supir.train --stage autoencoder --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage denoise     --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage base        --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage control     --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage decoder     --state STATE --cache STATE/cache
    python -m training.pocket_supir.train --stage assemble    --state STATE --out supir

Each stage keeps ``last.ckpt``, its averaged weights (fp16) and a TensorBoard log in ``STATE/<stage>``, and
reads the averaged weights of those above it. ``decoder`` improves the autoencoder's decoder alone, so that
the latents stay; it can run beside any stage after ``autoencoder``. ``assemble`` writes the two models that
``model.supir`` and ``model.sdxl`` of the upscaler take.

A GPU is used where there is one. ``--stage paint --cache FOLDER --workers N`` paints all prints beforehand,
``--stage encode`` makes the latents of ``control`` while ``base`` trains, and ``--workers N`` prepares
batches beside the training, so that it does not wait.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from training.pocket.options import add_training_options


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = ["paint", "encode", "autoencoder", "decoder", "denoise", "base", "control", "assemble"]
    parser.add_argument("--stage", required=True, choices=stages)
    parser.add_argument("--state", type=Path, help="folder of checkpoints, logs and weights")
    parser.add_argument("--init", type=Path, help="base, control: another STATE whose weights to begin with")
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
    found = parser.parse_args()
    if found.stage == "paint" and found.cache is None:
        parser.error("--stage paint needs --cache FOLDER to paint into")
    if found.stage != "paint" and found.state is None:
        parser.error(f"--stage {found.stage} needs --state FOLDER")
    return found


def main() -> None:
    began = time.monotonic()
    args = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    import torch

    torch.set_num_threads(args.threads)
    from training.pocket.run import Schedule, train
    from training.pocket.scenes import Scenes, paint
    from training.pocket_supir.assembly import assemble
    from training.pocket_supir.models import PRINT
    from training.pocket_supir.stages import DEFAULTS, build_stage, encode

    if args.stage == "assemble":
        assemble(args.state, args.out or args.state / "supir", args.storage)
        return
    scenes = Scenes(args.world, args.scenes, PRINT, args.cache)
    if args.stage == "paint":
        paint(scenes, args.workers)
        return
    if args.stage == "encode":
        encode(args.state, scenes, args.side, args.variants, args.workers)
        return
    schedule = Schedule.of(args, DEFAULTS[args.stage])
    stage = build_stage(args.stage, args.state, schedule, scenes, args.side, args.variants, args.workers)
    left = None if args.stop_after is None else args.stop_after - (time.monotonic() - began) / 60
    train(stage, args.state / args.stage, args.precision, args.minutes, args.workers, left)


if __name__ == "__main__":
    main()
