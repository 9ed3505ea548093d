"""Objects: solids of revolution and flat faces with edges, joints and windows, lit from the scene's light."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.pocket.world.canvas import Canvas, Light, mix, rgb, smooth
from training.pocket.world.figure import Figure
from training.pocket.world.noise import Array
from training.pocket.world.scene import COLOURS, Scene

_OWN_COLOURS: dict[str, tuple[float, float, float]] = {
    "tower": (0.60, 0.54, 0.46),
    "monolith": (0.30, 0.30, 0.33),
    "pyramid": (0.84, 0.68, 0.42),
    "castle": (0.62, 0.59, 0.55),
    "house": (0.86, 0.78, 0.64),
    "tree": (0.17, 0.42, 0.14),
    "lighthouse": (0.82, 0.12, 0.10),
    "arch": (0.76, 0.64, 0.50),
    "statue": (0.72, 0.71, 0.68),
    "dome": (0.90, 0.86, 0.78),
}


def _tower(f: Figure) -> None:
    f.paint(f.taper(0.17, 0.135, -0.02, 0.84), f.colour, f.round(0.16) * f.courses(13))
    f.paint(f.taper(0.135, 0.185, 0.80, 0.87), f.colour, f.round(0.19) * 0.7)
    f.paint(f.box(-0.19, 0.19, 0.86, 0.92), f.colour, f.round(0.19))
    teeth = f.box(-0.19, 0.19, 0.91, 1.0) * ((((f.u + 0.19) * 7.9 / 1.0) % 1) < 0.58)
    f.paint(teeth, f.colour, f.round(0.19))
    for y, x in ((0.20, 0.02), (0.42, -0.03), (0.64, 0.02)):
        f.glow(f.box(x - 0.032, x + 0.032, y, y + 0.10))


def _monolith(f: Figure) -> None:
    s = float(f.light.side)
    lean = 0.012 * f.v
    front = f.mask(np.maximum(np.abs(f.u + s * 0.06) - 0.17 + lean, np.maximum(-0.03 - f.v, f.v - 1.0)))
    edge = f.u * s
    flank = f.mask(
        np.maximum(np.maximum(0.11 - lean - edge, edge - 0.25 + lean), np.maximum(-0.01 - f.v, f.v - 0.97))
    )
    f.paint(flank, f.colour, 1.05)
    f.paint(front, f.colour, 0.38 + 0.14 * f.v)


def _pyramid(f: Figure) -> None:
    s = float(f.light.side)
    ridge = s * 0.16
    rise = f.v / np.float32(0.86)
    left, right = -0.74 + 0.74 * rise, 0.74 - 0.74 * rise
    middle = ridge * (1 - rise)
    bottom = -0.035 + 0.035 * np.abs(f.u - ridge)
    body = f.mask(np.maximum(np.maximum(left - f.u, f.u - right) * 0.75, bottom - f.v))
    lit = np.clip((f.u - middle) * s / f.edge + 0.5, 0, 1)
    f.paint(body, f.colour, (0.14 + 0.98 * lit) * f.courses(15, 0.2))


def _castle(f: Figure) -> None:
    f.paint(f.box(-0.44, 0.44, -0.02, 0.42), f.colour, 0.55 * f.courses(13))
    f.paint(f.box(-0.44, 0.44, 0.41, 0.48) * (((f.u + 0.44) * 9.5 % 1) < 0.58), f.colour, 0.6)
    roof = mix(f.colour, rgb((0.20, 0.13, 0.18)), 0.78)
    for x, w, top in ((0.0, 0.13, 0.66), (-0.47, 0.115, 0.56), (0.47, 0.115, 0.56)):
        f.paint(f.box(x - w, x + w, -0.03, top), f.colour, f.round(w, x) * f.courses(13))
        f.paint(f.taper(w * 1.28, 0.0, top, top + 0.30, x), roof, f.round(w * 1.2, x) * 1.1)
        f.glow(f.box(x - 0.032, x + 0.032, top - 0.19, top - 0.07))
    gate = np.maximum(f.box(-0.075, 0.075, -0.03, 0.17), f.disc(0, 0.17, 0.075, 0.075))
    f.glow(gate)


def _house(f: Figure) -> None:
    s = float(f.light.side)
    roof = rgb((0.36, 0.15, 0.11))
    f.paint(f.box(-s * 0.30 - 0.055, -s * 0.30 + 0.055, 0.55, 0.96), rgb((0.50, 0.30, 0.25)), 0.6)
    f.paint(f.box(-0.46, 0.46, -0.02, 0.48), f.colour, 0.5 + 0.35 * (f.u * s > 0.0))
    slope = f.mask(np.maximum(np.abs(f.u) - (0.56 - (f.v - 0.44) * 1.12), np.maximum(0.44 - f.v, f.v - 0.93)))
    f.paint(slope, roof, (0.25 + 0.75 * (f.u * s > 0)) * f.courses(14, 0.2))
    gable = f.mask(np.maximum(np.abs(f.u) - (0.45 - (f.v - 0.44) * 1.12), np.maximum(0.44 - f.v, f.v - 0.93)))
    f.paint(gable, f.colour, 0.55 + 0.2 * (f.u * s > 0))
    f.paint(f.box(-0.085, 0.085, -0.02, 0.26), rgb((0.30, 0.17, 0.10)), 0.55)
    for x in (-0.28, 0.28):
        f.glow(f.box(x - 0.095, x + 0.095, 0.15, 0.34))
        f.paint(f.box(x - 0.012, x + 0.012, 0.15, 0.34), rgb((0.9, 0.88, 0.82)), 0.6)
    f.glow(f.disc(0, 0.60, 0.065, 0.065))


def _tree(f: Figure) -> None:
    bark = rgb((0.30, 0.20, 0.13))
    f.paint(f.taper(0.075, 0.045, -0.02, 0.55), bark, f.round(0.07))
    f.paint(f.limb(0.0, 0.34, -0.20, 0.58, 0.035, 0.02), bark, 0.4)
    f.paint(f.limb(0.0, 0.38, 0.20, 0.60, 0.035, 0.02), bark, 0.6)
    spots = f.random.uniform(-1, 1, (4, 2))
    blobs = [
        (-0.24, 0.60, 0.19),
        (0.25, 0.62, 0.18),
        (-0.15, 0.76, 0.19),
        (0.16, 0.78, 0.19),
        (0.0, 0.68, 0.24),
    ]
    blobs += [(0.0, 0.87, 0.15)] + [(0.22 * x, 0.70 + 0.15 * y, 0.12) for x, y in spots.tolist()]
    rough = (f.grain - 1) * np.float32(0.45)
    for x, y, r in blobs:
        radius = np.sqrt((f.u - x) ** 2 + ((f.v - y) / 0.88) ** 2)
        f.paint(f.mask(radius - r + rough), f.colour, 0.08 + 0.95 * f.ball(x, y, r, r) * (1 + 6 * rough))


def _lighthouse(f: Figure) -> None:
    white = rgb((0.96, 0.95, 0.92))
    pale = float(f.colour.mean()) > 0.75
    other = rgb((0.72, 0.12, 0.10)) if pale else white
    f.paint(f.taper(0.19, 0.155, -0.02, 0.08), white, f.round(0.19) * 0.8)
    body = f.taper(0.155, 0.092, 0.06, 0.76)
    f.paint(body, other, f.round(0.14))
    bands = ((f.v - 0.06) * 3.6 % 1) < 0.55
    f.paint(body * bands, f.colour, f.round(0.14))
    f.paint(f.box(-0.135, 0.135, 0.75, 0.795), f.dark, 0.6)
    f.paint(f.box(-0.075, 0.075, 0.79, 0.90), rgb((0.75, 0.85, 0.9)), 0.6)
    f.image += (
        (rgb((1.0, 0.90, 0.55)) - f.image)
        * f.box(-0.05, 0.05, 0.80, 0.89)
        * np.float32(1.0 if f.lamp else 0.55)
    )
    f.paint(np.maximum(f.taper(0.11, 0.02, 0.89, 1.0), f.disc(0, 1.01, 0.024, 0.024)), f.colour, f.round(0.1))


def _arch(f: Figure) -> None:
    s = float(f.light.side)

    def opening(shift: float, grow: float) -> Array:
        u = f.u - shift
        radius = np.sqrt(u * u + (f.v - 0.50) ** 2) - (0.235 + grow)
        lower = np.maximum(np.abs(u) - (0.235 + grow), f.v - 0.50)
        return np.asarray(np.minimum(radius, lower))

    outer = np.maximum(np.abs(f.u) - 0.46, np.maximum(-0.03 - f.v, f.v - 0.90))
    f.paint(f.mask(np.maximum(outer, -opening(s * 0.075, 0.0))), f.colour, 0.12)
    f.paint(
        f.mask(np.maximum(outer, -opening(0.0, 0.0))), f.colour, (0.72 + 0.2 * f.u * s) * f.courses(11, 0.2)
    )
    f.paint(f.box(-0.52, 0.52, 0.86, 0.96), f.colour, 0.85)
    f.paint(f.box(-0.52, 0.52, 0.84, 0.865), f.dark, 0.5)
    hole = f.mask(opening(0.0, 0.0)) * f.mask(opening(s * 0.075, 0.0)) * (f.v > -0.03)
    f.alpha *= 1 - hole


def _statue(f: Figure) -> None:
    s = -float(f.light.side)
    f.paint(f.box(-0.21, 0.21, -0.02, 0.07), f.colour, 0.8)
    f.paint(f.box(-0.165, 0.165, 0.06, 0.25), f.colour, 0.45 + 0.3 * (f.u * -s > 0.05))
    robe = f.taper(0.155, 0.075, 0.25, 0.60)
    f.paint(robe, f.colour, f.round(0.16) * (1 - 0.22 * (((f.u * 15) % 1) < 0.3)))
    f.paint(f.taper(0.08, 0.125, 0.57, 0.755), f.colour, f.round(0.13))
    f.paint(f.limb(s * 0.11, 0.72, s * 0.155, 0.46, 0.042, 0.034), f.colour, f.round(0.06, s * 0.13))
    f.paint(f.limb(-s * 0.10, 0.72, -s * 0.27, 0.98, 0.042, 0.030), f.colour, f.round(0.2, -s * 0.17))
    f.paint(f.disc(-s * 0.28, 1.02, 0.048, 0.055), mix(f.colour, rgb((1.0, 0.85, 0.45)), 0.6), 0.9)
    f.paint(f.limb(0, 0.74, 0, 0.80, 0.04, 0.04), f.colour, 0.5)
    f.paint(f.disc(0.0, 0.865, 0.072, 0.085), f.colour, f.ball(0, 0.865, 0.075, 0.09) * 1.2)


def _dome(f: Figure) -> None:
    f.paint(f.box(-0.47, 0.47, -0.02, 0.055), f.colour, 0.75)
    f.paint(f.box(-0.42, 0.42, 0.05, 0.33), f.dark, 0.5)
    for x in np.linspace(-0.38, 0.38, 6):
        f.paint(f.box(x - 0.042, x + 0.042, 0.05, 0.33), f.colour, f.round(0.05, x) * 1.05)
    f.glow(f.box(-0.055, 0.055, 0.05, 0.24))
    f.paint(f.box(-0.45, 0.45, 0.32, 0.40), f.colour, 0.8)
    shell = f.disc(0.0, 0.40, 0.385, 0.42) * (f.v > 0.395)
    ribs = 1 - 0.15 * (
        np.abs(((f.u / np.maximum(np.sqrt(np.clip(1 - ((f.v - 0.4) / 0.42) ** 2, 0, 1)), 0.05)) * 5.2) % 1)
        < 0.18
    )
    f.paint(shell, f.colour, 1.1 * f.ball(0.0, 0.40, 0.385, 0.42) * ribs)
    f.paint(f.box(-0.055, 0.055, 0.80, 0.90), f.colour, f.round(0.06))
    f.paint(f.taper(0.075, 0.0, 0.89, 1.03), f.dark, 0.8)


_FIGURES: dict[str, Callable[[Figure], None]] = {
    "tower": _tower,
    "monolith": _monolith,
    "pyramid": _pyramid,
    "castle": _castle,
    "house": _house,
    "tree": _tree,
    "lighthouse": _lighthouse,
    "arch": _arch,
    "statue": _statue,
    "dome": _dome,
}


def object_height(scene: Scene) -> float:
    """Height of the scene's object in canvas sides."""
    base = {"tiny": 0.20, "": 0.42, "huge": 0.68}[scene.size]
    wide = {"house": 0.88, "pyramid": 0.86, "castle": 0.90, "dome": 0.95, "arch": 0.92, "statue": 1.05}
    return base * wide.get(scene.object or "", 1.0) * (1.06 if "monumental" in scene.moods else 1.0)


def paint_object(canvas: Canvas, scene: Scene, light: Light, foot: float) -> None:
    """Draw the scene's object on the canvas, with its shadow, or with rock and reflection at sea.

    Args:
        canvas: The canvas, already painted up to the ground the object stands on.
        scene: The scene; its object is not None.
        light: Its light.
        foot: Where the ground is (y).
    """
    assert scene.object is not None
    height = object_height(scene) * canvas.uniform(0.94, 1.06)
    x = {"left": 0.24, "": 0.5, "right": 0.76}[scene.position] + canvas.uniform(-0.04, 0.04)
    if scene.size == "huge":
        x = 0.5 + (x - 0.5) * 0.72
    colour = rgb(COLOURS[scene.colour] if scene.colour else _OWN_COLOURS[scene.object])
    figure = Figure(canvas, light, colour, scene.time in ("dusk", "night"), x, foot, height)
    _FIGURES[scene.object](figure)

    image = figure.image
    if scene.weather == "snowy" and scene.object != "monolith":
        top = np.clip(figure.alpha - np.roll(figure.alpha, max(round(0.018 * canvas.side), 1), axis=0), 0, 1)
        image += (rgb((0.92, 0.95, 1.0)) * light.on(0.7) - image) * (top * np.float32(0.9))
    veil = {"foggy": 0.30}.get(scene.weather, 0.05) + (0.14 if "atmospheric" in scene.moods else 0.0)
    mist = np.clip(veil * (0.55 + 0.9 * smooth(0.55, 0.0, figure.v)), 0, 0.8)
    image += (light.haze - image) * mist

    wide = {"pyramid": 0.70, "castle": 0.56, "house": 0.46, "dome": 0.46, "arch": 0.46}.get(
        scene.object, 0.20
    ) * height
    if scene.terrain == "sea":
        _islet(canvas, light, x, foot, max(wide * 1.3, 0.09))
        _reflect(canvas, figure, image)
    else:
        lean = canvas.x - np.float32(x) + np.float32(light.side * 0.5 * wide)
        shade = np.exp(-((lean / (wide * 1.5 + 0.01)) ** 2) - ((canvas.y - foot - 0.012) / 0.030) ** 2)
        canvas.image *= 1 - np.float32(0.5) * shade
    part = canvas.image[:, figure.rows, figure.columns]
    part += (image - part) * figure.alpha


def _islet(canvas: Canvas, light: Light, x: float, foot: float, width: float) -> None:
    rough = canvas.noise.line("rock") * np.float32(0.012)
    shape = (
        np.float32(foot)
        - np.float32(0.040) * np.clip(1 - ((canvas.x[0] - x) / width) ** 2, -1, 1)
        + rough * (np.abs(canvas.x[0] - x) < width)
    )
    row, mask = canvas.below(shape.astype(np.float32))
    mask = (
        mask
        * smooth(foot + 0.035, foot + 0.02, canvas.y[row:])
        * smooth(width, width * 0.93, np.abs(canvas.x - x))
    )
    _, relief = canvas.noise.lit("rock", light.direction)
    canvas.over(rgb((0.25, 0.23, 0.22)) * light.on(np.clip(0.35 + 0.4 * relief[row:], 0, 1.4)), mask, row)


def _reflect(canvas: Canvas, figure: Figure, image: Array) -> None:
    """Lay the object's mirror image, shortened to a half and broken by waves, into the water under it."""
    top = figure.rows.start
    foot = figure.rows.start + round(float(figure.v[0, 0]) / float(figure.edge))
    rows = np.arange(min(foot + 1, canvas.side), min(foot + 1 + (foot - top) // 2, canvas.side))
    if rows.size < 2:
        return
    source = np.clip(foot - 2 * (rows - foot) - top, 0, image.shape[1] - 1)
    waves = canvas.noise.field("streak", 2)[rows, figure.columns]
    fade = np.linspace(0.55, 0.12, rows.size, dtype=np.float32)[:, None] * np.clip(
        0.85 + 0.4 * waves, 0.1, 1.3
    )
    part = canvas.image[:, rows[0] : rows[-1] + 1, figure.columns]
    part += (image[:, source] * np.float32(0.8) - part) * (figure.alpha[source] * np.clip(fade, 0, 1))
