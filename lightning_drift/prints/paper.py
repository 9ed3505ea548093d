"""A print's paper: from centimetres and a resolution to pixels, and where on it a picture lies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_drift.common.errors import UserError
from lightning_drift.common.lengths import length, paper_size
from lightning_drift.common.numbers import real
from lightning_drift.images.deep import Pixels
from lightning_drift.prints.sizes import Box, Size

INCH = 25.4
LOWEST_DPI, HIGHEST_DPI = 10.0, 2400.0


@dataclass(frozen=True)
class Sheet:
    """The paper of one picture in pixels, turned as the picture is.

    Attributes:
        size: Of the file, its bleed included.
        place: Left and top edge of the picture on it.
        picture: The picture's size on it.
        box: The part of the source picture that is shown, in its pixels.
    """

    size: Size
    place: tuple[int, int]
    picture: Size
    box: Box


@dataclass  # not frozen: Lightning refuses to carry frozen ones to a device
class Paper:
    """Paper to print on.

    Args:
        text: Its size as it was written.
        width: In millimetres.
        height: In millimetres.
        dpi: Pixels an inch.
        border: White edge within the paper, in millimetres.
        bleed: What the picture goes on beyond each edge of the paper, to be cut off, in millimetres.
        crop: Whether the picture fills the paper, cut evenly where its shape is another; otherwise it is
            whole and the rest stays white.
    """

    text: str
    width: float
    height: float
    dpi: float = 300.0
    border: float = 0.0
    bleed: float = 0.0
    crop: bool = True

    @classmethod
    def read(cls, size: object, dpi: object, border: object, bleed: object, crop: bool) -> "Paper":
        """Paper from the options of the data.

        Raises:
            UserError: A value is refused, the border covers the paper, or there is a bleed that no picture
                would reach.
        """
        width, height = paper_size(size, "data.print")
        real(dpi, "data.dpi", LOWEST_DPI, HIGHEST_DPI)
        paper = cls(
            " ".join(str(size).split()),
            width,
            height,
            float(dpi),  # type: ignore[arg-type]  # `real` has looked at it
            length(border, "data.border"),
            length(bleed, "data.bleed"),
            crop,
        )
        if 2 * paper.border > 0.9 * min(width, height):
            raise UserError(f"{border} on each side leaves no room on {size}", "data.border")
        if paper.bleed and (paper.border or not crop):
            other = "data.border" if paper.border else "data.crop false"
            raise UserError(f"goes with a picture that fills the paper, not with {other}", "data.bleed")
        if paper.bleed > min(width, height):
            raise UserError(f"{bleed} is more than the paper, {size}", "data.bleed")
        if min(paper.size) < 8:
            raise UserError(f"{size} has fewer than 8 pixels a side at {dpi:g} dpi", "data.dpi")
        return paper

    def pixels(self, millimetres: float) -> int:
        """A length in whole pixels."""
        return round(millimetres / INCH * self.dpi)

    @property
    def size(self) -> Size:
        """Pixels of the file as the paper was written, bleed included."""
        return self.pixels(self.width + 2 * self.bleed), self.pixels(self.height + 2 * self.bleed)

    def sheet(self, width: int, height: int) -> Sheet:
        """Where a picture of so many pixels lies; the paper is turned where that is the other way up."""
        size = self.size
        if (width - height) * (size[0] - size[1]) < 0:
            size = size[1], size[0]
        edge = self.pixels(self.border)
        inner = size[0] - 2 * edge, size[1] - 2 * edge
        box: Box = (0, 0, width, height)
        if self.crop:
            scale = max(inner[0] / width, inner[1] / height)
            across, down = inner[0] / scale, inner[1] / scale
            left, top = max(0.0, (width - across) / 2), max(0.0, (height - down) / 2)
            box = left, top, min(width, left + across), min(height, top + down)
        else:
            scale = min(inner[0] / width, inner[1] / height)
            inner = max(1, round(width * scale)), max(1, round(height * scale))
        return Sheet(size, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2), inner, box)

    def described(self) -> dict[str, object]:
        """What decides the paper's pixels, in the words of image metadata."""
        settings: dict[str, object] = {"Print": self.text, "DPI": f"{self.dpi:g}"}
        if self.border:
            settings["Border"] = f"{self.border:g} mm"
        if self.bleed:
            settings["Bleed"] = f"{self.bleed:g} mm"
        if not self.crop:
            settings["Crop"] = "no"
        return settings


def lay(pixels: Pixels, alpha: NDArray[np.uint8] | None, sheet: Sheet) -> Pixels:
    """A picture on its white paper; transparent parts show the paper.

    Args:
        pixels: [h, w, 3] of 8 or 16 bits.
        alpha: Opacity [h, w], 0 to 255; None where all is opaque.
        sheet: The paper.

    Returns:
        [H, W, 3] of the same bits.
    """
    white = np.iinfo(pixels.dtype).max
    paper = np.full((sheet.size[1], sheet.size[0], 3), white, pixels.dtype)
    if alpha is not None:
        opaque = alpha[..., None] / np.float32(255)
        pixels = np.rint(pixels * opaque + white * (1 - opaque)).astype(pixels.dtype)  # type: ignore[assignment]
    left, top = sheet.place
    paper[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return paper
