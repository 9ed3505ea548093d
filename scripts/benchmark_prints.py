"""Compare what `--dry_run` says of prints with the seconds and the memory that they take.

    python scripts/benchmark_prints.py                          # the pocket, on a bundled photo
    python scripts/benchmark_prints.py --options "-c configs/supir.yaml --model.supir FILE" --images dreams/

Seconds are from the program's first words on, memory is the whole process's at its largest.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POCKET = f"-c {ROOT / 'configs' / 'supir_pocket.yaml'} --data.captions false"
SECONDS = {"s": 1, "min": 60, "h": 3600}
GIB = {"KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--options", default=POCKET, help="of predict")
    parser.add_argument(
        "--images", type=Path, help="a picture or a folder; the bundled coffee's first photo, 64 px"
    )
    parser.add_argument("--prints", nargs="*", default=["2x2cm", "4x4cm", "6x6cm"], help="sizes on paper")
    parser.add_argument("--steps", nargs="*", type=int, default=[10], help="sampler steps")
    return parser.parse_args(argv)


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        images = args.images or _small_photo(Path(folder))
        print("print      steps   seconds: said  taken  ratio   GiB: said  taken  ratio")
        for size in args.prints:
            for steps in args.steps:
                words = [
                    *[sys.executable, "-m", "lightning_drift", "predict", *shlex.split(args.options)],
                    *[f"--data.images={images}", f"--data.print={size}", f"--model.edm_steps={steps}"],
                    *[f"--image_writer.output_dir={folder}/{size}_{steps}"],
                    "--trainer.enable_progress_bar=false",
                ]
                said = subprocess.run(
                    [*words, "--dry_run"], capture_output=True, text=True, check=True
                ).stdout
                seconds = _seconds(said)
                memory = re.search(r"memory +about ([\d.]+) (\w+)", said)
                assert memory
                gib = float(memory[1]) * GIB[memory[2]]
                taken, peak = _run(words)
                print(
                    f"{size:10s} {steps:5d}   {seconds:13.0f} {taken:6.0f} {seconds / taken:6.2f}   "
                    f"{gib:9.2f} {peak:6.2f} {gib / peak:6.2f}",
                    flush=True,
                )
    return 0


def _small_photo(folder: Path) -> Path:
    from PIL import Image

    from lightning_drift.assets import PHOTOS

    path = folder / "photo.png"
    first = sorted((PHOTOS / "coffee").glob("*.jpg"))[0]
    Image.open(first).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS).save(path)
    return path


def _seconds(said: str) -> float:
    time_said = re.search(r"time +about (?:(\d+) h )?(\d+) (s|min)", said)
    assert time_said
    return int(time_said[1] or 0) * 3600 + int(time_said[2]) * SECONDS[time_said[3]]


def _run(words: list[str]) -> tuple[float, float]:
    """Seconds from the program's first words, which end its start, to its end; and GiB at most."""
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    process.stderr.readline()
    begin = time.perf_counter()
    process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{shlex.join(words)} ended with {process.returncode}")
    return time.perf_counter() - begin, usage.ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(main())
