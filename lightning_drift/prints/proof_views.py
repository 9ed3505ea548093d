"""What a proof page shows of a print, at the print's own size: source, bicubic, stage 1, print."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

from PIL import Image

from lightning_drift.images.decode import decode
from lightning_drift.prints.images import UpscaleRequest
from lightning_drift.prints.sizes import Box, Size


@dataclass(frozen=True)
class View:
    """One picture of a print's place.

    Attributes:
        name: What it is, for people.
        size: Its width and height in pixels.
        part: The part of it that shows what the print shows: left, top, right, bottom in its pixels.
        make: Makes it, in sRGB.
    """

    name: str
    size: Size
    part: Box
    make: Callable[[], Image.Image]


def views_of(request: UpscaleRequest, print_: Path, stage1: Path | None) -> tuple[Size, list[View]]:
    """The views of a print, without the paper around it.

    Args:
        request: What was asked for; its size is known.
        print_: The print's file.
        stage1: The file of its first stage, where there is one.

    Returns:
        The print's size in pixels, and the views in the order in which they came to be.

    Raises:
        UndecodableError: A file cannot be read.
    """
    assert request.size is not None
    sheet = request.paper.sheet(*request.size) if request.paper else None
    shown: Box = sheet.box if sheet else (0, 0, *request.size)
    printed = decode(print_).image
    if sheet is not None:
        left, top = sheet.place
        printed = printed.crop((left, top, left + sheet.picture[0], top + sheet.picture[1]))
    size = printed.size
    whole: Box = (0, 0, *size)
    source = decode(request.path).image
    edges = floor(shown[0]), floor(shown[1]), ceil(shown[2]), ceil(shown[3])
    inner = (shown[0] - edges[0], shown[1] - edges[1], shown[2] - edges[0], shown[3] - edges[1])

    def enlarged() -> Image.Image:
        return source.resize(size, Image.Resampling.BICUBIC, box=shown)

    views = [
        View("Source", (edges[2] - edges[0], edges[3] - edges[1]), inner, lambda: source.crop(edges)),
        View("Bicubic", size, whole, enlarged),
    ]
    if stage1 is not None:
        views.append(View("Stage 1", size, whole, lambda: decode(stage1).image))
    return size, [*views, View("Print", size, whole, lambda: printed)]
