"""Terrains: layered ranges with relief and air between, water, woods, streets and fields in perspective."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.pocket.world.canvas import Canvas, Light, mix, rgb, smooth
from training.pocket.world.ground import Ground
from training.pocket.world.noise import Array
from training.pocket.world.scene import Scene


def _peaks(g: Ground, base: float, count: int, height: float) -> Array:
    """A skyline of peaks with straight flanks and a rough edge."""
    canvas = g.canvas
    place, rise, lean = canvas.random.random((3, count))
    top = (np.arange(count) + 0.1 + 0.8 * place) / count
    tall = height * (0.45 + 0.55 * rise)
    away = canvas.x[0][None] - top[:, None]
    steep = (0.85 + 0.5 * lean)[:, None] * np.where(away > 0, 1.0, 0.8)
    crest = (tall[:, None] - np.abs(away) * steep).max(0)
    rough = canvas.noise.line("cloud", 2.0) * 0.16 * height + canvas.noise.line("rock", 2.0) * 0.035 * height
    return np.asarray(np.float32(base) - np.maximum(crest + rough, 0.06 * height), np.float32)


def _mountains(g: Ground) -> None:
    canvas = g.canvas
    for far, height, drop, count in ((0.95, 0.36, 0.0, 3), (0.50, 0.24, 0.03, 4), (0.10, 0.10, 0.08, 5)):
        line = _peaks(g, g.horizon + drop, count, height * g.grand**0.5)
        field, relief = canvas.noise.lit("rock", g.light.direction, 0.018)
        reach = max(canvas.side // 20, 1)
        padded = np.pad(line, reach, mode="edge")
        down = canvas.y - line
        slope = (padded[2 * reach :] - padded[: -2 * reach])[None] * np.float32(canvas.side / (2 * reach))
        facing = np.tanh(2.0 * slope) * np.exp(-down * 4.0)
        diffuse = np.clip(0.44 - 0.34 * g.light.side * facing + 0.22 * relief, 0.02, 1.25)
        rock = np.broadcast_to(g.albedo((0.36, 0.35, 0.40), 0.7), (3, canvas.side, 1))
        cap = np.float32(g.horizon - 0.10) + np.float32(0.020) * field
        snow = smooth(0.015, -0.015, canvas.y - cap)
        colour = rock + (rgb((0.96, 0.97, 1.0)) - rock) * snow * np.float32(0.95)
        g.layer(line, colour.astype(np.float32), diffuse.astype(np.float32), far)
    g.plain(g.horizon + 0.08, g.albedo((0.30, 0.38, 0.22)))


def _hills(g: Ground) -> None:
    canvas = g.canvas
    greens = ((0.36, 0.52, 0.34), (0.32, 0.54, 0.22), (0.30, 0.52, 0.16))
    for far, drop, colour in zip((0.9, 0.45, 0.0), (-0.015, 0.03, 0.085), greens, strict=True):
        phase, wave = canvas.uniform(0, 6.28), canvas.uniform(5.5, 9.0)
        curve = np.sin(canvas.x[0] * wave + phase) + 0.45 * np.sin(canvas.x[0] * wave * 1.9 + 2.1 * phase)
        line = np.float32(g.horizon + drop) - np.float32(0.036 * g.grand) * (curve + 0.3).astype(np.float32)
        slope = np.cos((canvas.x + (canvas.y - line) * 0.5) * wave + phase)
        texture = canvas.noise.field("streak", 2)
        diffuse = 0.56 + 0.30 * g.light.side * slope + 0.11 * texture - 0.5 * (canvas.y - line)
        g.layer(line, g.albedo(colour), np.clip(diffuse, 0.06, 1.3).astype(np.float32), far)
        for x in canvas.random.uniform(0.02, 0.98, 7 if far < 0.8 else 0):
            _bush(g, float(x), float(line[int(x * canvas.side)]), 0.010 + 0.012 * (1 - far))


def _bush(g: Ground, x: float, y: float, radius: float) -> None:
    canvas = g.canvas
    rows = slice(max(int((y - 2 * radius) * canvas.side) - 1, 0), int((y + radius) * canvas.side) + 2)
    columns = slice(max(int((x - 2 * radius) * canvas.side) - 1, 0), int((x + 2 * radius) * canvas.side) + 2)
    far = np.hypot(canvas.x[:, columns] - x, canvas.y[rows] - y + 0.4 * radius)
    mask = np.clip((radius - far) * canvas.side + 0.5, 0, 1) * np.float32(0.8)
    part = canvas.image[:, rows, columns]
    part += (g.albedo((0.13, 0.24, 0.10), 0.4) * g.light.on(0.4) - part) * mask


def _dunes(g: Ground) -> None:
    canvas = g.canvas
    for far, drop in ((0.75, -0.01), (0.38, 0.045), (0.0, 0.12)):
        phase, wave = canvas.uniform(0, 1), canvas.uniform(1.1, 1.9)
        skew = 0.30 if g.light.side > 0 else 0.70
        turn = (canvas.x[0] * wave + phase) % 1
        rise = np.where(turn < skew, turn / skew, (1 - turn) / (1 - skew))
        line = np.float32(g.horizon + drop) - np.float32(0.085 * g.grand) * (rise**1.25 - 0.25).astype(
            np.float32
        )
        down = canvas.y - line
        at = ((canvas.x - 0.9 * g.light.side * down) * wave + phase + 0.02 * canvas.noise.field("cloud")) % 1
        facing = (
            smooth(skew - 0.04, skew + 0.03, at) if g.light.side > 0 else smooth(skew + 0.04, skew - 0.03, at)
        )
        facing = facing * smooth(0.30, 0.05, down) + 0.62 * smooth(0.05, 0.30, down)
        ripple = np.sin((down * 150 + 3.2 * canvas.noise.field("cloud") + canvas.x * 18) * (1.0 - 0.4 * far))
        diffuse = 0.20 + 0.72 * facing + (0.05 if far < 0.3 else 0.02) * ripple
        g.layer(line, g.albedo((0.93, 0.70, 0.40)), diffuse.astype(np.float32), far)


def _sea(g: Ground) -> None:
    canvas, light = g.canvas, g.light
    rough = (
        1.7
        if ("dramatic" in g.scene.moods or g.scene.weather == "stormy")
        else 0.35
        if "serene" in g.scene.moods
        else 0.9
    )
    if canvas.uniform(0, 1) < 0.5 and not g.thick:
        shore = np.float32(g.horizon) - np.float32(0.02) * np.clip(canvas.noise.line("cloud") + 0.2, 0, 2)
        g.layer(shore.astype(np.float32), g.albedo((0.25, 0.3, 0.34)), 0.4, 0.8)
    near = np.clip((canvas.y - np.float32(g.horizon)) / np.float32(1 - g.horizon), 0, 1)
    depth = np.float32(0.13) / np.maximum(canvas.y - np.float32(g.horizon - 0.02), 0.012)
    wave = canvas.noise.warped("streak", (canvas.x - 0.5) * depth * np.float32(0.8), depth * np.float32(2.2))
    deep = g.albedo((0.05, 0.24, 0.34), 0.0) * light.on(0.62)
    mirror = mix(light.haze, light.ambient, 0.35) * np.float32(0.92)
    colour = mirror + (deep - mirror) * np.clip(near * 1.15 + 0.18 + 0.20 * rough * wave, 0.0, 1.0)
    glint = smooth(0.25, 1.1, wave + 0.25 * rough) * np.exp(
        -(((canvas.x - light.x) / (0.045 + 0.16 * near)) ** 2)
    )
    power = 0.95 if g.scene.body or "transcendent" in g.scene.moods else 0.28
    colour = colour + (light.sun * np.float32(1.15) + 0.12) * (glint * np.float32(power))
    if rough > 1:
        colour = colour + rgb((0.75, 0.8, 0.82)) * light.on(0.4) * (
            smooth(1.2, 1.9, wave) * near * np.float32(0.55)
        )
    row, mask = canvas.below(np.full(canvas.side, g.horizon, np.float32))
    veil = np.exp(-near * (6 if g.thick else 16)) * np.float32(0.85 if g.thick else 0.35)
    colour = colour + (light.haze - colour) * veil
    canvas.over(colour[:, row:], mask, row)


def _conifers(g: Ground, base: float, count: int, tall: float) -> Array:
    """The upper profile of a row of firs."""
    canvas = g.canvas
    spread, growth = canvas.random.random((2, count))
    centre = (np.arange(count) + 0.15 + 0.7 * spread) / count
    height = tall * (0.65 + 0.55 * growth)
    away = np.abs(canvas.x[0][None] - centre[:, None]).astype(np.float32)
    slim = height / (0.62 * tall + 0.35 * height) * 4.6
    step = 0.25 * tall * ((away * 46 / (tall * 10)) % 1 - 0.5) * (away * slim[:, None] > 0.05 * tall)
    tops = (height[:, None] - away * slim[:, None] + 0.45 * step).max(0)
    return np.asarray(np.float32(base) - np.maximum(tops, 0), np.float32)


def _forest(g: Ground) -> None:
    canvas = g.canvas
    for far, drop, count, tall, colour in (
        (0.85, 0.01, 17, 0.12, (0.17, 0.30, 0.22)),
        (0.42, 0.05, 12, 0.17, (0.11, 0.27, 0.15)),
        (0.05, 0.10, 9, 0.21, (0.07, 0.22, 0.10)),
    ):
        line = _conifers(g, g.horizon + drop, count, tall * (0.85 if far < 0.1 and g.scene.object else 1.0))
        _, relief = canvas.noise.lit("rock", g.light.direction)
        down = canvas.y - line
        diffuse = np.clip(0.62 - 2.6 * down + 0.20 * relief, 0.02, 1.1)
        g.layer(line, g.albedo(colour, 0.5), diffuse, far)
    g.plain(g.horizon + 0.10, g.albedo((0.13, 0.24, 0.10), 0.8), 0.3)


def _city(g: Ground) -> None:
    canvas = g.canvas
    for far, drop, tall, width in (
        (0.85, 0.02, 0.30, 0.055),
        (0.45, 0.05, 0.23, 0.08),
        (0.08, 0.09, 0.13, 0.115),
    ):
        count = int(1.3 / width) + 3
        wide = width * canvas.random.uniform(0.65, 1.35, count)
        edges = np.concatenate([[0.0], np.cumsum(wide)]) - canvas.uniform(0, width)
        heights = tall * g.grand**0.5 * canvas.random.uniform(0.25, 1.0, count) ** 1.3
        tone, lamps = canvas.random.uniform(0.75, 1.2, count), canvas.random.uniform(0, 1, (count, 64))
        which = np.clip(np.searchsorted(edges, canvas.x[0]) - 1, 0, count - 1)
        line = (np.float32(g.horizon + drop) - heights[which]).astype(np.float32)
        inside = canvas.x[0] - edges[which]
        flank = inside / wide[which]
        diffuse = np.where((flank > 0.68) == (g.light.side > 0), 0.85, 0.30) * tone[which]
        colour = g.albedo((0.42, 0.43, 0.48), 0.2) * np.ones((1, canvas.side, 1), np.float32)
        column, floor = (inside / 0.019).astype(int), np.maximum((canvas.y - line) / 0.028, 0)
        pane = (
            (((inside / 0.019) % 1) < 0.6)
            & ((floor % 1) < 0.6)
            & (floor > 0.35)
            & (flank > 0.08)
            & (flank < 0.92)
        )
        shine = lamps[which[None], (column[None] * 7 + floor.astype(int) * 13) % 64]
        colour = colour * (1 - np.float32(0.42) * pane)
        g.layer(line, colour.astype(np.float32), diffuse[None].astype(np.float32), far)
        if g.lamps:
            row, mask = canvas.below(line)
            glow = pane * (shine > 0.52) * np.float32(0.9 * (1 - 0.55 * far))
            canvas.over(rgb((1.0, 0.82, 0.42)), mask * glow[row:].astype(np.float32), row)
    g.plain(g.horizon + 0.09, g.albedo((0.24, 0.24, 0.27), 0.7), 0.25)


def _cliffs(g: Ground) -> None:
    canvas = g.canvas
    g.plain(g.horizon, g.albedo((0.66, 0.40, 0.25)), 0.35)
    for far, reach, top in ((0.55, 0.36, 0.40), (0.12, 0.22, 0.22)):
        for side in (0, 1):
            edge = reach * canvas.uniform(0.8, 1.15)
            height = g.horizon * top / (g.grand**0.6) * canvas.uniform(0.75, 1.2)
            across = canvas.x[0] if side == 0 else 1 - canvas.x[0]
            rugged = canvas.noise.line("rock", 1.2) * 0.026
            wall = smooth(edge + 0.045, edge - 0.02, across + rugged)
            foot = g.horizon + (0.05 if far < 0.3 else 0.012)
            line = (1.2 - (1.2 - height - rugged * 0.7) * (wall > 0.02) * np.clip(wall * 1.6, 0, 1)).astype(
                np.float32
            )
            _, relief = canvas.noise.lit("rock", g.light.direction, 0.014)
            strata = 0.5 + 0.5 * np.sin(canvas.y * 95 + 2.0 * canvas.noise.field("streak") + 9 * far)
            facing = 0.72 if (side == 0) == (g.light.side > 0) else 0.25
            diffuse = np.clip(facing + 0.26 * relief, 0.02, 1.2)
            colour = g.albedo((0.72, 0.37, 0.20), 0.45) * (0.78 + 0.30 * strata)
            row, mask = canvas.below(line)
            slope = foot + 0.05 * (1 - np.clip(across / edge, 0, 1.2))
            mask = mask * smooth(0.012, -0.012, canvas.y[row:] - slope.astype(np.float32))
            lit = colour[:, row:] * g.light.on(diffuse[row:])
            lit = lit + (g.light.haze - lit) * np.float32(min(far * (1.25 if g.thick else 0.6), 0.85))
            canvas.over(lit.astype(np.float32), mask, row)


def _meadow(g: Ground) -> None:
    canvas = g.canvas
    line = np.float32(g.horizon) - np.float32(0.03) * np.clip(canvas.noise.line("cloud") + 0.6, 0, 2)
    g.layer(line.astype(np.float32), g.albedo((0.24, 0.38, 0.28)), 0.35, 0.75)
    g.plain(g.horizon + 0.012, g.albedo((0.36, 0.60, 0.16)), 0.30, 1.4)
    if "desolate" in g.scene.moods or g.snowy:
        return
    hues = ((0.95, 0.20, 0.18), (1.0, 0.85, 0.25), (0.98, 0.97, 0.95), (0.75, 0.40, 0.90), (1.0, 0.55, 0.75))
    first = int(canvas.random.integers(len(hues)))
    depth = np.float32(0.19) / np.maximum(canvas.y - np.float32(g.horizon - 0.03), 0.012)
    fade = smooth(g.horizon + 0.01, g.horizon + 0.12, canvas.y)
    for hue in (hues[first], hues[(first + 2) % len(hues)]):
        field = canvas.noise.warped(
            "rock", (canvas.x - 0.5) * depth * np.float32(3.6), depth * np.float32(5.5)
        )
        canvas.over(rgb(hue) * g.light.on(0.75), smooth(1.0, 1.45, field) * fade * np.float32(0.85))


_TERRAINS: dict[str, Callable[[Ground], None]] = {
    "mountains": _mountains,
    "hills": _hills,
    "dunes": _dunes,
    "sea": _sea,
    "forest": _forest,
    "city": _city,
    "cliffs": _cliffs,
    "meadow": _meadow,
}


def paint_terrain(canvas: Canvas, scene: Scene, light: Light, horizon: float) -> None:
    """Paint the scene's terrain over the sky, up to the ground an object stands on."""
    _TERRAINS[scene.terrain](Ground(canvas, scene, light, horizon))
