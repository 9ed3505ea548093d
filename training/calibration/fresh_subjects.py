"""Cut six photo sets that no verdict was tuned on from the pictures that scikit-image ships.

    pip install scikit-image
    python -m training.calibration.fresh_subjects fresh

Each set is eight square crops of 512 x 512 in a folder of its own: ``cat`` (chelsea), ``tissue`` (ihc),
``motorcycle`` (motorcycle_left), ``retina``, ``rocket`` and ``astronaut``; scikit-image's documentation
states their rights. They are the held-out subjects of training/calibration/labels; none is shipped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lightning_drift.common.errors import UserError
from training.command_line import command_parser, run_command

# left, top, side in pixels of the originals (451 x 300, 512 x 512, 741 x 500)
CROPS = {
    "cat": (
        "chelsea.png",
        [
            (75, 0, 300),
            (0, 0, 300),
            (151, 0, 300),
            (110, 40, 220),
            (170, 60, 230),
            (60, 20, 260),
            (120, 0, 280),
            (200, 80, 220),
        ],
    ),
    "tissue": (
        "ihc.png",
        [
            (0, 0, 512),
            (0, 0, 300),
            (212, 0, 300),
            (0, 212, 300),
            (212, 212, 300),
            (106, 106, 300),
            (40, 120, 260),
            (230, 60, 260),
        ],
    ),
    "motorcycle": (
        "motorcycle_left.png",
        [
            (120, 0, 500),
            (0, 0, 500),
            (241, 0, 500),
            (150, 80, 400),
            (60, 60, 400),
            (330, 90, 400),
            (200, 120, 360),
            (100, 20, 460),
        ],
    ),
    "retina": (
        "retina.jpg",
        [
            (60, 60, 1290),
            (130, 130, 1000),
            (300, 130, 1000),
            (200, 300, 900),
            (400, 300, 900),
            (255, 255, 900),
            (130, 350, 800),
            (450, 200, 800),
        ],
    ),
    "rocket": (
        "rocket.jpg",
        [
            (106, 0, 427),
            (0, 0, 427),
            (213, 0, 427),
            (160, 40, 340),
            (60, 60, 360),
            (230, 87, 340),
            (190, 0, 300),
            (130, 127, 300),
        ],
    ),
    "astronaut": (
        "astronaut.png",
        [
            (0, 0, 512),
            (60, 0, 400),
            (0, 100, 400),
            (112, 60, 400),
            (100, 0, 300),
            (30, 20, 360),
            (150, 150, 350),
            (80, 40, 330),
        ],
    ),
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder for the folders of the sets")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    to: Path = arguments(argv).folder
    try:
        import skimage
    except ImportError as error:
        raise UserError(
            "the pictures come with scikit-image, which is not installed: pip install scikit-image"
        ) from error
    data = Path(skimage.__file__).parent / "data"
    for name, (file, crops) in CROPS.items():
        folder = to / name
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(data / file) as picture:
            whole = picture.convert("RGB")
        for number, (left, top, side) in enumerate(crops, start=1):
            square = whole.crop((left, top, left + side, top + side))
            path = folder / f"{number:02d}.jpg"
            square.resize((512, 512), Image.Resampling.LANCZOS).save(path, quality=90)
        print(f"{folder}: {len(crops)} pictures")


if __name__ == "__main__":
    run_command(main)
