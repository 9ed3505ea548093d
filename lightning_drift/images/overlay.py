"""Maps that are laid over pictures: one colour, more or less opaque."""

from pathlib import Path

from PIL import Image

from lightning_drift.images.decode import decode

INK = (0, 230, 255)
"""The colour; its blue is full, so that over black the blue channel tells the opacity."""


def overlay(opacity: Image.Image) -> Image.Image:
    """The overlay, RGBA, with an opacity of mode L."""
    image = Image.new("RGBA", opacity.size, (*INK, 0))
    image.putalpha(opacity)
    return image


def read_overlay(path: Path) -> Image.Image:
    """An overlay from its file, RGBA.

    Raises:
        UndecodableError: As `decode`.
    """
    return overlay(decode(path, background=(0, 0, 0)).image.getchannel("B"))


def laid_over(picture: Image.Image, over: Image.Image) -> Image.Image:
    """A picture, RGB, with an overlay of its size on it."""
    return Image.alpha_composite(picture.convert("RGBA"), over).convert("RGB")
