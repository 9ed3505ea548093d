"""A sheet of dreams and their prints side by side: nearest neighbour, bicubic, SUPIR.

    python scripts/compare_prints.py --dreams dreams/demo --prints prints/demo --out prints/demo.png

A print belongs to the dream of the same file name; dreams without one are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dreams", type=Path, required=True, help="folder of the small pictures")
    parser.add_argument("--prints", type=Path, required=True, help="folder of their prints")
    parser.add_argument("--out", type=Path, required=True, help="the sheet, a PNG")
    return parser.parse_args(argv)


def main() -> int:
    args = arguments()
    from PIL import Image

    from lightning_drift.images.contact_sheet import contact_sheet

    images: list[Image.Image] = []
    for path in sorted(args.prints.glob("*.png")):
        if not (args.dreams / path.name).is_file() or path.stem == "contact_sheet":
            continue
        with Image.open(args.dreams / path.name) as opened:
            dream = opened.convert("RGB")
        with Image.open(path) as opened:
            finished = opened.convert("RGB")
        filters = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
        images += [*(dream.resize(finished.size, method) for method in filters), finished]
    if not images:
        print(f"{args.prints} holds no prints of the pictures in {args.dreams}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(images, columns=["nearest", "bicubic", "SUPIR"]).save(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
