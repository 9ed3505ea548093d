"""Exact sizes by networks of a fixed scale: as often as needed, then reduced by Lanczos's filter."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.images.decode import Source
from lightning_drift.prints.paper import Sheet
from lightning_drift.prints.sizes import Box, Size


@dataclass(frozen=True)
class Passes:
    """The way from a picture to its print.

    Attributes:
        source: The picture's size in pixels.
        box: The part of it that is shown.
        output: The size that the part becomes.
        count: How often a network enlarges the picture; 0 where nothing is enlarged.
        scale: Of the network; 1 without one.
    """

    source: Size
    box: Box
    output: Size
    count: int
    scale: int

    @classmethod
    def of(cls, source: Size, upscale: float, scale: int, sheet: Sheet | None = None) -> "Passes":
        """The fewest passes that reach a size.

        Args:
            source: Size of the picture.
            upscale: How many times as large it becomes where there is no paper; the size is rounded.
            scale: Of the network, 2 or more; 1 without one.
            sheet: The paper.

        Raises:
            UserError: The print, or what is made on the way, would have more pixels than is sane.
        """
        box: Box = (0, 0, *source)
        output = max(1, round(source[0] * upscale)), max(1, round(source[1] * upscale))
        if sheet is not None:
            box, output = sheet.box, sheet.picture
            upscale = max(output[0] / (box[2] - box[0]), output[1] / (box[3] - box[1]))
        count = 0
        while scale > 1 and scale**count < upscale * (1 - 1e-6):  # a paper's factor is not exact
            count += 1
        passes = cls(source, box, output, count, scale)
        (wide, high), (most, highest) = passes.after(count), output
        limit = Image.MAX_IMAGE_PIXELS or 2**27
        if max(wide * high, most * highest) > limit:
            raise UserError(
                f"{source[0]}x{source[1]} pixels would be processed at {max(wide, most)}x"
                f"{max(high, highest)}, more than {limit // 10**6} megapixels; lower model.upscale or the "
                "print's size"
            )
        return passes

    def after(self, count: int) -> Size:
        """The picture's size after so many passes."""
        return self.source[0] * self.scale**count, self.source[1] * self.scale**count

    def reduced(self, pixels: Tensor) -> Tensor:
        """What is shown of a picture after the last pass, at the output's size.

        Args:
            pixels: [3, H, W] in [0, 1].

        Returns:
            [3, h, w]; the filter goes a little beyond [0, 1] at edges.
        """
        times = self.scale**self.count
        left, top, right, bottom = (edge * times for edge in self.box)
        box = left, top, right, bottom
        if box == (0, 0, *self.output) and self.after(self.count) == self.output:
            return pixels
        planes = [
            np.asarray(Image.fromarray(plane).resize(self.output, Image.Resampling.LANCZOS, box=box))
            for plane in pixels.numpy()
        ]
        return torch.from_numpy(np.stack(planes))


def to_tensor(source: Source) -> Tensor:
    """A picture's colours, with all the bits they have, as [3, H, W] in [0, 1]."""
    colours = source.image if source.deep is None else source.deep
    largest = 255 if source.deep is None else 65535
    return torch.from_numpy(np.asarray(colours, dtype=np.float32) / largest).permute(2, 0, 1).contiguous()
