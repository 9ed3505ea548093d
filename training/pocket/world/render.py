"""The pocket world: captioned landscapes, painted from a seed at any resolution.

A scene is a handful of words (terrain, hour, weather, object, colour, size, place, style, moods) and a seed.
The same scene is the same picture at 64, 128 or 512 pixels, up to detail that the coarser one cannot hold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.pocket.world.canvas import Canvas, rgb, smooth
from training.pocket.world.captions import caption
from training.pocket.world.noise import Array
from training.pocket.world.objects import paint_object
from training.pocket.world.scene import Scene, sample_scene
from training.pocket.world.sky import (
    light_of,
    paint_lightning,
    paint_rain,
    paint_rays,
    paint_sky,
    paint_snow,
)
from training.pocket.world.terrain import paint_terrain

__all__ = ["Scene", "caption", "example", "render", "sample_scene"]

_LUMA = np.array((0.299, 0.587, 0.114), np.float32).reshape(3, 1, 1)


def render(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """Paint a scene.

    Args:
        scene: What to paint.
        size: Side of the picture in pixels, 32 to 512, a multiple of 8.

    Returns:
        The picture (size, size, 3), 8-bit RGB. Pictures up to 128 pixels are painted twice as large and
        averaged.

    Raises:
        ValueError: The size is out of range.
    """
    if not 32 <= size <= 512 or size % 8:
        raise ValueError(f"size {size} is not a multiple of 8 from 32 to 512")
    factor = 2 if size <= 128 else 1
    random = np.random.default_rng(scene.seed)
    canvas = Canvas(random, size * factor)
    low = "monumental" in scene.moods or scene.size == "huge"
    horizon = (0.78 if low else 0.66) + canvas.uniform(-0.03, 0.03)
    light = light_of(canvas, scene, horizon)
    paint_sky(canvas, scene, light, horizon)
    if "transcendent" in scene.moods:
        paint_rays(canvas, scene, light)
    paint_terrain(canvas, scene, light, horizon)
    if scene.object:
        paint_object(canvas, scene, light, horizon + (0.055 if scene.size == "tiny" else 0.115))
    _air(canvas, scene, light.haze, horizon)
    if scene.weather == "stormy":
        paint_rain(canvas)
        paint_lightning(canvas, horizon)
    if scene.weather == "snowy" and scene.style != "drawing":
        paint_snow(canvas)
    _moods(canvas, scene, light.haze)
    image = np.clip(canvas.image, 0, 1)
    if scene.style == "drawing":
        image = _drawing(canvas, image)
    elif scene.style == "painting":
        image = _painting(canvas, image)
    pixels = image.reshape(3, size, factor, size, factor).mean((2, 4))
    return np.asarray(pixels.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)


def example(seed: int, index: int, size: int = 64) -> tuple[Scene, NDArray[np.uint8], str]:
    """Scene, picture (size, size, 3) and one caption of number ``index`` of the world ``seed``."""
    scene = sample_scene(seed, index)
    return scene, render(scene, size), caption(scene, np.random.default_rng([scene.seed, 1]))


def _air(canvas: Canvas, scene: Scene, haze: Array, horizon: float) -> None:
    """Fog and mist drifting before everything."""
    foggy, misty = scene.weather == "foggy", "atmospheric" in scene.moods
    if not foggy and not misty:
        return
    drift = smooth(-1.2, 1.6, canvas.noise.field("streak"))
    spread = np.exp(-(((canvas.y - np.float32(horizon)) / (0.30 if foggy else 0.13)) ** 2))
    amount = spread * (0.35 + 0.55 * drift) * (0.92 if foggy else 0.72)
    canvas.over(haze * np.float32(1.04), np.clip(amount, 0, 0.9).astype(np.float32))


def _moods(canvas: Canvas, scene: Scene, haze: Array) -> None:
    """What a mood does to the whole picture: contrast, softness, colour."""
    image = np.clip(canvas.image, 0, 1.15)
    if "dramatic" in scene.moods:
        curve = np.clip(image, 0, 1)
        image = image + np.float32(0.85) * (curve * curve * (3 - 2 * curve) - image)
        away = np.hypot(canvas.x - 0.5, canvas.y - 0.5)
        image = image * (np.float32(1.06) - np.float32(0.62) * smooth(0.30, 0.72, away))
    if "serene" in scene.moods:
        image = image + np.float32(0.30) * (
            haze * np.float32(0.75) + rgb((0.21, 0.20, 0.22)) * haze.max() - image
        )
    grey = (image * _LUMA).sum(0, keepdims=True)
    if "desolate" in scene.moods:
        image = image + np.float32(0.72) * (grey * rgb((1.03, 0.97, 0.88)) * np.float32(0.92) - image)
    if "vivid" in scene.moods:
        image = grey + (image - grey) * np.float32(1.75)
    away = (canvas.x - 0.5) ** 2 + (canvas.y - 0.5) ** 2
    canvas.image = image * (1 - np.float32(0.22) * away)


def _drawing(canvas: Canvas, image: Array) -> Array:
    """Pencil on warm paper: tone as hatching, outlines dark."""
    grey = (image * _LUMA).sum(0)
    reach = max(canvas.side // 128, 1)
    gx = np.roll(grey, -reach, 1) - np.roll(grey, reach, 1)
    gy = np.roll(grey, -reach, 0) - np.roll(grey, reach, 0)
    gx[:, :reach], gx[:, -reach:], gy[:reach], gy[-reach:] = 0, 0, 0, 0
    outline = np.clip(np.hypot(gx, gy) * 3.6 - 0.06, 0, 1)
    low, high = np.quantile(grey, 0.02), np.quantile(grey, 0.98)
    tone = np.clip((grey - low) / (high - low + 0.08), 0, 1)
    hatch = 0.5 + 0.5 * np.sin(
        (canvas.x + canvas.y) * np.float32(2 * np.pi * 11) + canvas.noise.field("cloud")
    )
    paper = 0.97 - 0.42 * (1 - tone) - 0.08 * (1 - tone) * hatch - 0.62 * outline
    return np.asarray(rgb((1.0, 0.975, 0.93)) * np.clip(paper, 0.04, 1).astype(np.float32))


def _painting(canvas: Canvas, image: Array) -> Array:
    """Oil: strokes displace the picture along noise, colours are pushed and banded."""
    u, v = canvas.noise.field("cloud", 4), canvas.noise.field("cloud", 4)
    amount = 0.018 * canvas.side
    rows = np.clip(np.arange(canvas.side)[:, None] + np.round(v * amount * 0.6), 0, canvas.side - 1).astype(
        np.int32
    )
    columns = np.clip(np.arange(canvas.side)[None] + np.round(u * amount), 0, canvas.side - 1).astype(
        np.int32
    )
    moved = image[:, rows, columns]
    grey = (moved * _LUMA).sum(0, keepdims=True)
    rich = grey + (moved - grey) * np.float32(1.35)
    stroke = canvas.noise.warped(
        "streak", canvas.x * 0.8 + canvas.y * np.float32(0.8), (canvas.y - canvas.x) * np.float32(0.8)
    )
    rich = rich * (1 + np.float32(0.11) * stroke)
    banded = np.floor(rich * 8 + 0.5) / 8
    return np.asarray(np.clip(rich + np.float32(0.35) * (banded - rich), 0, 1))
