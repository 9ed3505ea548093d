"""Update norms: how much a sampling step changes while the grid's pictures are made, at no cost."""

import math
from collections.abc import Sequence

from PIL import Image

from lightning_drift.stable_diffusion.sampling import UPDATES

_FLOOR = 1e-12


def updates(images: Sequence[Image.Image]) -> float | None:
    """The geometric mean of pictures' update energies, so that the ratio of two is that of matched pictures.

    Broken trajectories show in the norms of the latents' updates (Broken Memories, arXiv:2605.22050).

    Args:
        images: One picture or more, as `dream` gives them.

    Returns:
        Above 0; None where a picture was found on disk, and nobody saw it being made.
    """
    if not all(UPDATES in image.info for image in images):
        return None
    return math.exp(sum(math.log(image.info[UPDATES] + _FLOOR) for image in images) / len(images))
