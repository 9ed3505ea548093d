"""Train the pocket's networks, one stage per command; every command goes on from where it was stopped.

    python -m training.pocket.train --stage autoencoder --state ../pocket_state --steps 20000
    python -m training.pocket.train --stage text        --state ../pocket_state --steps 4000
    python -m training.pocket.train --stage clip        --state ../pocket_state --steps 4000
    python -m training.pocket.train --stage unet        --state ../pocket_state --steps 60000
    python -m training.pocket.train --stage assemble    --state ../pocket_state --out pipeline

``--stage paint --cache FOLDER --workers N`` paints all scenes beforehand, so that a GPU does not wait.
Each stage keeps ``last.ckpt``, its averaged weights (fp16) and a TensorBoard log in ``STATE/<stage>``. The
UNet needs the weights of the autoencoder and of the text encoder. ``--init FOLDER`` starts stages that have
no checkpoint from the weights in ``FOLDER/<stage>``, such as the committed ``training/pocket/weights``.
"""

from __future__ import annotations

import argparse
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
    stages = ["paint", "autoencoder", "text", "clip", "unet", "assemble"]
    parser.add_argument("--stage", required=True, choices=stages)
    parser.add_argument("--init", type=Path, help="folder with <stage>/ weights to start from")
    parser.add_argument("--freeze-encoder", action="store_true", help="autoencoder: train the decoder alone")
    add_training_options(parser, 200_000, "12 MiB")
    parser.add_argument("--out", type=Path, help="assemble: folder of the finished pipeline")
    return parse_training(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    use_threads(args.threads)
    from training.pocket.run import train
    from training.pocket.scenes import Scenes, paint
    from training.pocket.stages import DEFAULTS, assemble, build_stage
    from training.pocket.unet import LatentScenes

    if args.stage == "assemble":
        assemble(args.state, args.out or args.state / "pipeline", args.init)
        return
    scenes = Scenes(args.world, args.scenes, 64, args.cache)
    if args.stage == "paint":
        paint(scenes, args.workers)
        return
    schedule = DEFAULTS[args.stage].with_options(args)
    stage = build_stage(args.stage, args.state, schedule, scenes, args.init, args.freeze_encoder)
    if args.workers and isinstance(stage.scenes, LatentScenes):
        stage.scenes.prepare()
    train(stage, args.state / args.stage, args.precision, args.minutes, args.workers)


if __name__ == "__main__":
    run_command(main)
