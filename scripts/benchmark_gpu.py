"""All that a graphics card says of a fit, in one command: at most ten minutes, and no model is downloaded.

    .venv/bin/python scripts/benchmark_gpu.py

It writes SD v1.5 and CLIP ViT-L/14 with random weights (3 GB) once, and then runs in turn:

- `benchmark_card.py`: the memory modes' peaks, measured and forecast, also on smaller cards; the update;
- `benchmark_shares.py`: the recipe's fit with 100 of its steps and two of its grids, where its time goes, and
  where that of all 1600 steps and 4 grids would go, for a first fit of a base (no pictures on disk);
- `benchmark_fit.py`: milliseconds of a step, of every memory mode, against the essay's loop.

What they print is the README's table. A command that does not fit into the time (`--minutes`) is ended and
named. For figures to be published run `benchmark_fit.py` by itself, with its own number of rounds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # for a test, which loads this file by its path

from benchmark_fit import random_sd15

from lightning_drift.weights.clip_tokenizer import sd15_tokenizer

SCRIPTS = Path(__file__).parent
RECIPE = SCRIPTS.parent / "configs" / "dreambooth_sd15.yaml"


def random_clip(folder: Path, width: int = 1) -> str:
    """A CLIP of ViT-L/14's shapes with random weights, as transformers publishes one (0.9 GB).

    Args:
        folder: Where it is written, if it is not there.
        width: Shapes divided by this.
    """
    if not (folder / "config.json").exists():
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

        text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
        vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
        for sizes in (text, vision):
            sizes |= {name: size // width for name, size in sizes.items()}
        text |= {"num_hidden_layers": 12 // width, "bos_token_id": 49406, "eos_token_id": 49407}
        vision |= {"num_hidden_layers": 24 // width, "patch_size": 14, "image_size": 224}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768 // width))
        sd15_tokenizer().save_pretrained(folder)
        CLIPImageProcessor().save_pretrained(folder)
        model.half().save_pretrained(folder)
    return str(folder)


def commands(models: Path, steps: int) -> dict[str, list[str]]:
    """What is run, by the script's name; the longest last."""
    sd15 = f"--workdir={models / 'sd15-random'}"
    fit = ["--extrapolate", "1600", "4", "-c", str(RECIPE), f"--model.pipeline={models / 'sd15-random'}"]
    fit += [f"--clip_drift.clip={models / 'clip-random'}", "--data.instance_dir=coffee"]
    fit += [
        f"--trainer.max_steps={steps}",
        f"--seed_grid.steps=0,{steps}",
        f"--step_checkpoint.steps={steps}",
    ]
    return {
        "benchmark_card.py": [sd15],
        "benchmark_shares.py": fit,
        "benchmark_fit.py": ["--model=sd15-random", sd15, "--steps=40", "--rounds=1"],
    }


def run(script: str, words: Sequence[str], seconds: float) -> str:
    """Run a script in a folder of its own, and print what it prints.

    Returns:
        Why it did not come to its end; empty if it did.
    """
    print(f"\n## scripts/{script} {' '.join(words)}", flush=True)
    path = os.pathsep.join([str(SCRIPTS.parent), os.getenv("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, str(SCRIPTS / script), *words],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path},
                timeout=max(seconds, 1),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{script} was ended: the time was over (--minutes)"
    return f"{script} failed with status {done.returncode}" if done.returncode else ""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="when to end at the latest")
    parser.add_argument("--steps", type=int, default=100, help="steps of the recipe's fit")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()), help="for the models")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all and say what is missing."""
    options = arguments(argv)
    end = time.monotonic() + options.minutes * 60
    if not torch.cuda.is_available():
        print("error: this measures a graphics card, and PyTorch finds none here", file=sys.stderr)
        return 2
    random_sd15(options.workdir / "sd15-random")
    random_clip(options.workdir / "clip-random")
    missing = [
        run(script, words, end - time.monotonic())
        for script, words in commands(options.workdir, options.steps).items()
    ]
    for sentence in filter(None, missing):
        print(f"error: {sentence}", file=sys.stderr)
    return int(any(missing))


if __name__ == "__main__":
    sys.exit(main())
