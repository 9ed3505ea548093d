"""From an enlarged picture's numbers to the picture that is written: bits, transparency, paper, colours."""

import numpy as np
import pyvips
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import Source
from lightning_drift.images.deep import in_profile
from lightning_drift.images.picture import Picture
from lightning_drift.images.profiles import srgb
from lightning_drift.prints.images import UpscaleRequest
from lightning_drift.prints.paper import Sheet, lay
from lightning_drift.prints.sizes import Box, to_deep, to_image


def finished(
    request: UpscaleRequest,
    source: Source,
    pixels: Tensor,
    described: tuple[str, dict[str, str]],
    sheet: Sheet | None,
    shown: Box,
    truncated: bool = False,
) -> Picture:
    """The picture of a request.

    A print is opaque, on white, and says its colour space; other pictures keep the source's transparency and
    profile.

    Args:
        request: What was asked for.
        source: What it was made of.
        pixels: The enlarged colours [3, h, w] in [-1, 1].
        described: Its name and PNG text.
        sheet: The paper; None for a picture without one.
        shown: The part of the source that is shown.
        truncated: Cut fractions of levels off, as the reference does, instead of rounding.

    Raises:
        UserError: The colours cannot be converted to the paper's profile.
    """
    name, text = described
    is_deep = request.bits == 16 or (request.bits == "auto" and source.deep is not None)
    deep = to_deep(pixels) if is_deep else None
    image = to_image(pixels, truncated)
    alpha = source.alpha
    if alpha is not None:
        alpha = alpha.resize(image.size, Image.Resampling.BICUBIC, box=shown)
    profile = source.icc_profile
    if sheet is None:
        if alpha is not None:
            image.putalpha(alpha)
            if deep is not None:
                deep = np.dstack([deep, np.asarray(alpha, np.uint16) * 257])
        return Picture(request, name, image, text, profile, deep=deep)
    assert request.paper is not None
    profile = profile or srgb()
    levels = np.asarray(image) if deep is None else deep
    if request.profile is not None and request.profile != profile:
        try:
            levels = in_profile(levels, profile, request.profile)
        except pyvips.Error as error:
            raise UserError("colours cannot be converted to it", "data.profile") from error
        profile = request.profile
    levels = lay(levels, None if alpha is None else np.asarray(alpha), sheet)
    if deep is not None:
        deep, levels = levels.astype(np.uint16, copy=False), (levels >> 8).astype(np.uint8)
    image = Image.fromarray(levels)
    return Picture(request, name, image, text, profile, dpi=request.paper.dpi, deep=deep)
