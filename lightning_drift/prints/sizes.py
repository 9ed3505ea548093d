"""Sizes and pixels: from a picture to what the networks process in each pass, and back to exact sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lightning_drift.common.errors import UserError

MULTIPLE = 32
REFERENCE_MULTIPLE = 64
STRIP_PIXELS = 2**25
PASS_SCALE = 4
"""What SUPIR was trained to enlarge by, and so the most that one pass does unless it is told to."""

Size = tuple[int, int]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels."""


@dataclass(frozen=True)
class Frame:
    """Sizes of one pass over one picture, each (width, height) in pixels.

    Attributes:
        output: What is returned.
        work: What is processed, before padding; larger than the output where the output is smaller than
            `min_size`.
        padded: `work` enlarged to what the networks can take.
        source: The part of the source picture that is shown.
        box: The part of what comes in that is shown: of the source for the first pass, of the pass before for
            later ones.
        crop: The part of the output that was asked for; None for all.
        reference: Reference behaviour of `to_pixels`: resized without antialiasing, truncated instead of
            rounded.
    """

    output: Size
    work: Size
    padded: Size
    source: Box
    box: Box
    crop: Box | None = None
    reference: bool = False


@dataclass(frozen=True)
class Sizing:
    """How sizes follow from a picture's.

    Args:
        upscale: Scale of the output, where its size is not given.
        min_size: Shortest side to process in pixels; SDXL knows no smaller pictures.
        passes: How often a picture is enlarged and restored; None for as often as keeps each scale below
            `PASS_SCALE`.
        reference: Reference behaviour: pictures are stretched to multiples of 64, rounded half to even.
    """

    upscale: float
    min_size: int = 1024
    passes: int | None = None
    reference: bool = False

    def frames(
        self, picture: Size, box: Box | None = None, output: Size | None = None, region: Box | None = None
    ) -> list[Frame]:
        """The passes over a picture of so many pixels.

        Args:
            picture: The picture's size.
            box: The part of it to enlarge; None for the whole.
            output: The size of the result; None for `upscale` times the part's.
            region: The part of the result to make, in its pixels, together with as much around it as is at
                least `min_size` a side; None for all of it.

        Raises:
            UserError: There would be more pixels than is sane.
        """
        box = box or (0, 0, *picture)
        wide, high = box[2] - box[0], box[3] - box[1]
        exact = (wide * self.upscale, high * self.upscale) if output is None else output
        sizes = self._sizes(wide, high, exact)
        parts: list[Box] = [(0, 0, *size) for size in sizes]
        if region is not None:
            parts = self._around(region, sizes)
        frames = []
        for k, (size, part) in enumerate(zip(sizes, parts, strict=True)):
            seen = _mapped(part, size, (wide, high))
            source = (box[0] + seen[0], box[1] + seen[1], box[0] + seen[2], box[1] + seen[3])
            inside = source
            if k > 0:
                before = _mapped(part, size, sizes[k - 1])
                left, top = parts[k - 1][:2]
                inside = (before[0] - left, before[1] - top, before[2] - left, before[3] - top)
            last = exact if k == len(sizes) - 1 and region is None else None
            frames.append(self._frame(part, source, inside, last, picture))
        if region is not None:
            left, top = parts[-1][:2]
            crop = (region[0] - left, region[1] - top, region[2] - left, region[3] - top)
            frames[-1] = replace(frames[-1], crop=crop)
        return frames

    def _sizes(self, wide: float, high: float, exact: tuple[float, float]) -> list[Size]:
        """The size of each pass's output, in equal steps; the first is no smaller than `min_size`."""
        total = max(exact[0] / wide, exact[1] / high)
        count = self.passes or (1 if self.reference else _count(total))
        first = max(total ** (1 / count), self.min_size / min(wide, high))
        if total <= first:
            count = 1
        elif not self.passes:
            count = 1 + _count(total / first)
        scales = [first * (total / first) ** (k / max(1, count - 1)) for k in range(count - 1)]
        between = [(max(1, round(wide * scale)), max(1, round(high * scale))) for scale in scales]
        return [*between, (max(1, round(exact[0])), max(1, round(exact[1])))]

    def _around(self, region: Box, sizes: Sequence[Size]) -> list[Box]:
        """The part of each pass that is made so that the last one has the region."""
        parts: list[Box] = []
        need = region
        for k in range(len(sizes) - 1, -1, -1):
            part = _grown(need, sizes[k], self.min_size)
            parts.insert(0, part)
            if k > 0:
                need = _mapped(part, sizes[k], sizes[k - 1])
        return parts

    def _frame(
        self, part: Box, source: Box, inside: Box, last: tuple[float, float] | None, picture: Size
    ) -> Frame:
        output = round(part[2] - part[0]), round(part[3] - part[1])
        wide, high = last or output
        factor = max(1.0, self.min_size / min(wide, high))
        exact = wide * factor, high * factor
        if self.reference:
            stretched = _stretched(exact[0]), _stretched(exact[1])
            frame = Frame(output, stretched, stretched, source, inside, reference=True)
        else:
            work = output if factor == 1 else (round(exact[0]), round(exact[1]))
            padded = -(-work[0] // MULTIPLE) * MULTIPLE, -(-work[1] // MULTIPLE) * MULTIPLE
            frame = Frame(output, work, padded, source, inside)
        # What only `min_size` enlarges is a strip, and would hold up the others for hours.
        limit = STRIP_PIXELS if factor > 1 else Image.MAX_IMAGE_PIXELS or 2**27
        if frame.padded[0] * frame.padded[1] > limit:
            raise UserError(
                f"{picture[0]}x{picture[1]} pixels would be processed at {frame.padded[0]}x"
                f"{frame.padded[1]}, more than {limit // 10**6} megapixels; lower model.upscale, the print's "
                "size, or model.min_size"
            )
        return frame


def _count(scale: float) -> int:
    """Passes that enlarge so much together, none by more than `PASS_SCALE`."""
    return max(1, math.ceil(math.log(scale, PASS_SCALE) - 1e-6))


def _mapped(part: Box, size: Size, other: tuple[float, float]) -> Box:
    """A part of a picture in the pixels of another size of it."""
    across, down = other[0] / size[0], other[1] / size[1]
    return part[0] * across, part[1] * down, part[2] * across, part[3] * down


def _grown(need: Box, size: Size, least: int) -> Box:
    """Whole pixels around what is needed, at least so many a side where the picture has them."""
    edges = []
    for low, high, length in ((need[0], need[2], size[0]), (need[1], need[3], size[1])):
        begin, end = math.floor(low), math.ceil(high)
        lack = max(0, least - (end - begin))
        begin = max(0, min(begin - lack // 2, length - max(least, end - begin)))
        edges.append((begin, min(length, max(end, begin + least))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _stretched(side: float) -> int:
    return max(REFERENCE_MULTIPLE, int(np.round(side / REFERENCE_MULTIPLE)) * REFERENCE_MULTIPLE)


# -- pixels ------------------------------------------------------------------------------------------


def to_tensor(picture: Image.Image | Tensor, frame: Frame, box: Box) -> Tensor:
    """Pixels as the networks take them: [3, H, W] in [-1, 1], resized bicubically, padded by reflection.

    Args:
        picture: An RGB image of 8 bits, or [3, H, W] in [-1, 1].
        frame: The sizes.
        box: The part of it that is shown.
    """
    if isinstance(picture, Image.Image):
        resized = _resized(picture, frame.work, box)
        pixels = torch.from_numpy((np.asarray(resized, dtype=np.float64) / 255 * 2 - 1).astype(np.float32))
        pixels = pixels.permute(2, 0, 1)
    else:
        channels = [Image.fromarray(channel) for channel in picture.float().cpu().numpy()]
        planes = [np.asarray(_resized(channel, frame.work, box)) for channel in channels]
        pixels = torch.from_numpy(np.stack(planes)).clamp(-1, 1)
    right, bottom = frame.padded[0] - frame.work[0], frame.padded[1] - frame.work[1]
    return F.pad(pixels, (0, right, 0, bottom), mode="reflect")


def _resized(image: Image.Image, size: Size, box: Box) -> Image.Image:
    if box == (0, 0, *image.size) and image.size == size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC, box=box)


def to_pixels(result: Tensor, frame: Frame) -> Tensor:
    """A pass's result [3, H, W] at its output's size, what is beyond the region cut off."""
    pixels = result[None, :, : frame.work[1], : frame.work[0]].float()
    if frame.work != frame.output:
        size = (frame.output[1], frame.output[0])
        pixels = F.interpolate(
            pixels, size, mode="bicubic", align_corners=False, antialias=not frame.reference
        )
    if frame.crop is not None:
        left, top, right, bottom = map(round, frame.crop)
        pixels = pixels[..., top:bottom, left:right]
    return pixels[0]


def to_image(pixels: Tensor, reference: bool = False) -> Image.Image:
    """Pixels [3, H, W] in [-1, 1] as an RGB image of 8 bits, clamped; rounded, or truncated (reference)."""
    scaled = (pixels * 127.5 + 127.5).clamp(0, 255)
    whole = scaled if reference else scaled.round()
    return Image.fromarray(whole.to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def to_deep(pixels: Tensor) -> NDArray[np.uint16]:
    """Pixels [3, H, W] in [-1, 1] as [H, W, 3] of 16 bits, clamped and rounded."""
    scaled = (pixels.double() * 32767.5 + 32767.5).clamp(0, 65535).round()
    return scaled.permute(1, 2, 0).cpu().numpy().astype(np.uint16)
