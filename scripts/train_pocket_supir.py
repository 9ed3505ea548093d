"""Train the pocket's SUPIR, one stage a command; every command goes on from where it was stopped.

    python scripts/train_pocket_supir.py --stage autoencoder --state ../supir_state --cache ../supir_state/cache

Each stage keeps ``last.ckpt``, its averaged weights and a TensorBoard log in ``STATE/<stage>``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", required=True, choices=["autoencoder", "decoder", "denoise", "base", "control"])
    parser.add_argument("--state", type=Path, required=True, help="folder of checkpoints, logs and weights")
    parser.add_argument(
        "--cache", type=Path, help="folder for painted scenes (200 MB per 1,024); none: paint anew"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps in all")
    parser.add_argument("--batch-size", type=int, help="scenes in a step")
    parser.add_argument("--learning-rate", type=float, help="full learning rate")
    parser.add_argument(
        "--cooldown", type=float, default=0.4, help="fraction of the steps with a falling rate"
    )
    parser.add_argument("--scenes", type=int, default=4096, help="number of distinct scenes")
    parser.add_argument("--world", type=int, default=0, help="seed of the world")
    parser.add_argument("--seed", type=int, help="seed of initialisation, order and noise")
    parser.add_argument("--side", type=int, default=96, help="autoencoder: side of its squares in pixels")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning precision, bf16-mixed or 32")
    parser.add_argument("--minutes", type=float, default=4.0, help="time between checkpoints")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    import torch

    torch.set_num_threads(args.threads)
    from lightning_drift.pocket.scene_data import Scenes
    from lightning_drift.pocket.supir_models import PRINT
    from lightning_drift.pocket.supir_stages import DEFAULTS, build_stage
    from lightning_drift.pocket.training import Schedule, train

    scenes = Scenes(args.world, args.scenes, PRINT, args.cache)
    steps, batch_size, rate, seed = DEFAULTS[args.stage]
    schedule = Schedule(
        steps=args.steps or steps,
        batch_size=args.batch_size or batch_size,
        learning_rate=args.learning_rate or rate,
        cooldown=args.cooldown,
        seed=seed if args.seed is None else args.seed,
    )
    stage = build_stage(args.stage, args.state, schedule, scenes, args.side)
    train(stage, args.state / args.stage, args.precision, args.minutes)


if __name__ == "__main__":
    main()
