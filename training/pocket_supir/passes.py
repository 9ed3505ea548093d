"""Measure prints of eight times in one pass and in two, on unseen scenes painted at 512 pixels.

    python -m training.pocket_supir.passes --count 4

The options are those of configs/supir_pocket.yaml, without captions. The measures are those of
`training.pocket_supir.evaluate`; *shift* is the mean over scenes of the largest channel's change of the mean
colour, in levels of 255.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.command_line import command_parser, run_command, use_threads

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "supir_pocket.yaml"
SMALL, LARGE = 64, 512


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--out", type=Path, help="folder for the pictures; none are kept without")
    parser.add_argument("--count", type=int, default=4, help="number of unseen scenes")
    parser.add_argument("--steps", type=int, default=30, help="sampler steps")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    use_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure_passes(args, args.out or Path(folder))


def measure_passes(args: argparse.Namespace, out: Path) -> None:
    """Print the scenes and a table of the measures."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import CLIPModel

    from lightning_drift.assets import POCKET_CLIP
    from lightning_drift.lightning_cli import DriftCLI
    from training.pocket.scenes import HELD_OUT_SEED, Scenes
    from training.pocket_supir.degradation import reduce
    from training.pocket_supir.quality import energy, psnr, square_features

    clip: Any = CLIPModel.from_pretrained(str(POCKET_CLIP), torch_dtype=torch.float32)
    clip.eval()
    truth = Scenes(HELD_OUT_SEED, args.count, LARGE).images(list(range(args.count)))
    levels = (
        (reduce(truth, LARGE // SMALL) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    )
    source = out / "source"
    source.mkdir(parents=True, exist_ok=True)
    for k, each in enumerate(levels):
        Image.fromarray(each).save(source / f"{k:03d}.png")
    print(f"{'':12s} PSNR   CLIP    energy  shift")
    for passes in (1, 2):
        folder = out / f"passes_{passes}"
        DriftCLI(
            [
                *("predict", f"-c={CONFIG}", f"--data.images={source}", "--model.upscale=8"),
                *(f"--model.passes={passes}", f"--model.edm_steps={args.steps}"),
                *(f"--image_writer.output_dir={folder}", "--trainer.enable_progress_bar=false"),
            ]
        )
        files = [folder / f"{k:03d}.png" for k in range(args.count)]
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB"), np.float32) for file in files])
        prints = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        shift = (prints.mean((2, 3)) - truth.mean((2, 3))).abs().amax(1).mean() * 127.5
        distance = 1 - (square_features(clip, prints) * square_features(clip, truth)).sum(-1).mean()
        share = (energy(prints) / energy(truth)).log().mean().exp()
        print(
            f"{passes} pass{'es' * (passes > 1):2s}     {psnr(prints, truth).mean():5.2f}  {distance:.4f}  "
            f"{share:.3f}   {shift:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    run_command(main)
