"""Skies: gradients by the hour, sun and moon, lit clouds, stars, rays, halos, lightning and rain."""

from __future__ import annotations

import numpy as np

from training.pocket.world.canvas import HOURS, Canvas, Light, mix, rgb, smooth
from training.pocket.world.noise import Array
from training.pocket.world.scene import Scene


def light_of(canvas: Canvas, scene: Scene, horizon: float) -> Light:
    """Where the light stands and what colour it has."""
    zenith, _, low, sun, ambient = HOURS[scene.time]
    low_sun = scene.time in ("dawn", "dusk")
    x = canvas.uniform(0.14, 0.86)
    if abs(x - 0.5) < 0.08:
        x += 0.12 if x >= 0.5 else -0.12
    height = canvas.uniform(0.62, 0.86) if low_sun else canvas.uniform(0.22, 0.42)
    y = horizon * height
    if "transcendent" in scene.moods:
        x, y = 0.5 + canvas.uniform(-0.07, 0.07), 0.17
    sun_light, sky_light, haze = rgb(sun), rgb(ambient), mix(rgb(low), rgb(zenith), 0.12)
    if scene.weather in ("cloudy", "snowy", "foggy", "stormy"):
        grey = {"cloudy": 0.55, "snowy": 0.45, "foggy": 0.7, "stormy": 0.75}[scene.weather]
        dim = {"cloudy": 0.95, "snowy": 1.05, "foggy": 1.0, "stormy": 0.66}[scene.weather]
        level = float((sky_light + 0.5 * sun_light).mean())
        neutral = rgb((0.96, 0.99, 1.05)) * np.float32(level)
        sky_light = mix(sky_light, neutral, grey) * np.float32(dim)
        sun_light = sun_light * np.float32(1.0 - 0.75 * grey)
        haze = mix(
            haze, rgb((0.80, 0.83, 0.86)) * np.float32(0.34 if scene.time == "night" else 1.0), grey * 0.75
        )
        haze = haze * np.float32(0.52 if scene.weather == "stormy" else 1.0)
    return Light(x, y, sun_light, sky_light, haze)


def paint_sky(canvas: Canvas, scene: Scene, light: Light, horizon: float) -> None:
    """Gradient, glow, stars, disc and clouds, over the whole canvas."""
    zenith, middle, low = (rgb(colour) for colour in HOURS[scene.time][:3])
    if scene.weather in ("cloudy", "snowy", "foggy", "stormy"):
        amount = {"cloudy": 0.45, "snowy": 0.6, "foggy": 0.75, "stormy": 0.72}[scene.weather]
        zenith = mix(zenith, light.haze * np.float32(0.82), amount)
        middle = mix(middle, light.haze * np.float32(0.92), amount)
        low = mix(low, light.haze, amount)
    if "dramatic" in scene.moods:
        zenith, middle = zenith * np.float32(0.38), middle * np.float32(0.62)
    height = np.clip(canvas.y / np.float32(horizon), 0, 1)
    upper, lower = smooth(0.0, 0.62, height), smooth(0.45, 1.0, height)
    canvas.image[:] = mix_field(mix_field(zenith, middle, upper), low, lower)

    dx, dy = canvas.x - np.float32(light.x), canvas.y - np.float32(light.y)
    away = dx * dx + dy * dy
    veiled = 0.35 if scene.weather in ("stormy", "foggy") else 1.0
    if scene.time == "night":
        if scene.weather in ("clear", "snowy"):
            _stars(canvas, horizon)
        if scene.body:
            canvas.add(
                rgb((0.55, 0.65, 0.9)),
                np.float32(0.22) * np.exp(-away * 26) + np.float32(0.35) * np.exp(-away * 160),
            )
    else:
        warm = rgb((1.0, 0.80, 0.50)) if scene.time != "noon" else rgb((1.0, 0.97, 0.85))
        wide = {"dawn": 0.26, "noon": 0.22, "dusk": 0.40}[scene.time]
        canvas.add(
            warm,
            np.float32(wide * veiled) * np.exp(-away * 9) + np.float32(0.4 * veiled) * np.exp(-away * 70),
        )
    if scene.body:
        _disc(canvas, scene, np.sqrt(away), dx, dy)
    _clouds(canvas, scene, light, horizon)


def mix_field(a: Array, b: Array, field: Array) -> Array:
    """From ``a`` to ``b`` by a field."""
    return np.asarray(a + (b - a) * field, np.float32)


def _disc(canvas: Canvas, scene: Scene, distance: Array, dx: Array, dy: Array) -> None:
    edge = 1.2 / canvas.side
    if scene.body == "sun":
        colour = {"noon": (1.0, 0.99, 0.90), "dawn": (1.0, 0.95, 0.78), "dusk": (1.0, 0.84, 0.46)}[scene.time]
        radius = 0.062 if scene.time == "noon" else 0.082
        mask = np.clip((np.float32(radius) - distance) / np.float32(edge) + 0.5, 0, 1)
        canvas.over(np.maximum(rgb(colour) * np.float32(1.12), canvas.image), mask)
        return
    radius = 0.082
    mask = np.clip((np.float32(radius) - distance) / np.float32(edge) + 0.5, 0, 1)
    maria = canvas.noise.field("cloud", 4)
    shade = 0.93 - 0.08 * smooth(0.1, 1.2, maria) - 0.12 * smooth(0.3, 1.0, (dx + dy) / radius * 0.6)
    canvas.over(rgb((0.98, 0.98, 0.93)) * shade, mask)


def _stars(canvas: Canvas, horizon: float) -> None:
    """Some seventy stars of unequal brightness, each a small soft dot of fixed size in the scene."""
    count = 70
    x, y, bright = canvas.random.random((3, count))
    side = canvas.side
    radius = max(0.0042 * side, 0.7)
    reach = int(np.ceil(radius + 1))
    offset = np.arange(-reach, reach + 1)
    for px, py, power in zip(x * side, y * horizon * side, bright, strict=True):
        rows, columns = int(py) + offset, int(px) + offset
        rows, columns = rows[(rows >= 0) & (rows < side)], columns[(columns >= 0) & (columns < side)]
        far = (rows[:, None] + 0.5 - py) ** 2 + (columns[None] + 0.5 - px) ** 2
        spot = np.float32(0.25 + 0.75 * power**3) * np.exp(-far / (radius * radius)).astype(np.float32)
        canvas.image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += spot if rows.size else 0


def _clouds(canvas: Canvas, scene: Scene, light: Light, horizon: float) -> None:
    """Clouds in perspective: flatter and denser towards the horizon, brighter on the side of the light."""
    cover = {"clear": 1.15, "cloudy": -0.25, "foggy": 0.7, "stormy": -0.75, "snowy": 0.0}[scene.weather]
    cover += canvas.uniform(-0.25, 0.35)
    if "dramatic" in scene.moods:
        cover -= 0.7
    if "serene" in scene.moods:
        cover += 0.55
    rows = max(int(min(horizon + 0.03, 1.0) * canvas.side), 1)
    depth = 0.55 / (np.float32(horizon + 0.10) - canvas.y[:rows] + np.float32(0.22))
    u = (canvas.x - 0.5) * depth * np.float32(0.95)
    v = depth * np.float32(1.1)
    state = canvas.random.bit_generator.state
    here = canvas.noise.warped("cloud", u, v)
    canvas.random.bit_generator.state = state  # the same tile at shifted coordinates
    sx, sy = (light.x - canvas.x), (light.y - canvas.y[:rows])
    norm = np.float32(0.045) / np.sqrt(sx * sx + sy * sy + np.float32(0.01))
    there = canvas.noise.warped("cloud", u + sx * norm, v - sy * norm)
    mask = smooth(cover, cover + 1.0, here)
    lit = np.clip(0.5 + 0.62 * (here - there), 0, 1)
    body = np.clip(smooth(cover + 0.1, cover + 2.0, here), 0, 1)

    night = scene.time == "night"
    heavy = scene.weather == "stormy" or "dramatic" in scene.moods
    bright = mix(light.sun * np.float32(1.0) + light.ambient * np.float32(0.8), light.haze, 0.25)
    if not night:
        bright = mix(bright, rgb((1.0, 0.98, 0.96)), 0.45 if scene.time == "noon" else 0.12)
    shade = light.ambient * np.float32(0.62 if heavy else 1.02)
    if heavy:
        shade = mix(shade, rgb((0.16, 0.17, 0.22)) * np.float32(0.45 if night else 1.0), 0.7)
        bright = bright * np.float32(0.62 if scene.weather == "stormy" else 0.95)
    colour = mix_field(bright, shade, np.clip(body * np.float32(0.75) + (1 - lit) * np.float32(0.55), 0, 1))
    fade = np.clip(np.float32(1.12) - canvas.y[:rows] / np.float32(horizon) * np.float32(0.55), 0, 0.96)
    part = canvas.image[:, :rows]
    part += (colour - part) * (mask * fade)


def paint_rays(canvas: Canvas, scene: Scene, light: Light) -> None:
    """Transcendence: a shaft of light from above, rays and a halo around the light."""
    x, y = canvas.x - np.float32(light.x), canvas.y - np.float32(light.y)
    radius = np.sqrt(x * x + y * y)
    angle = np.arctan2(x, y + np.float32(0.10))
    phases = canvas.random.random(3) * 2 * np.pi
    rays = (
        sum(np.maximum(0, np.cos(angle * k + p)) ** 5 for k, p in zip((8, 13, 21), phases, strict=True)) / 2
    )
    shaft = np.exp(-np.abs(x) / (np.float32(0.05) + np.float32(0.22) * np.maximum(canvas.y, 0))) * np.float32(
        0.62
    )
    colour = rgb({"night": (0.62, 0.88, 1.0), "dusk": (1.0, 0.74, 0.42)}.get(scene.time, (1.0, 0.93, 0.70)))
    power = 0.62 if scene.weather == "foggy" else 0.72
    canvas.add(colour * np.float32(power), np.clip(shaft + 0.45 * rays * np.exp(-radius * 1.9), 0, 1))
    ring = np.exp(-(((radius - 0.165) / 0.017) ** 2)) * np.float32(0.5)
    core = np.exp(-radius * radius * 240) * np.float32(0.95)
    canvas.add(colour, ring + core)


def paint_lightning(canvas: Canvas, horizon: float) -> None:
    """One forked bolt from the clouds to the horizon, with its glow."""
    x = canvas.uniform(0.12, 0.88)
    steps = canvas.random.uniform(-1, 1, 9)
    ys = np.linspace(0.02, horizon, 9)
    xs = x + np.cumsum(steps) * 0.045
    line = np.interp(canvas.y[:, 0], ys, xs).astype(np.float32)[:, None]
    fork = np.interp(canvas.y[:, 0], ys, xs + np.sign(steps[4]) * np.clip(np.arange(9) - 4, 0, None) * 0.055)
    width = np.float32(max(0.011, 0.9 / canvas.side))
    main = (canvas.y < horizon) * np.exp(-(((canvas.x - line) / width) ** 2))
    branch = (canvas.y > ys[4]) * (canvas.y < horizon * 0.85)
    split = branch * np.exp(
        -(((canvas.x - fork.astype(np.float32)[:, None]) / (width * np.float32(0.6))) ** 2)
    )
    glow = np.exp(-np.abs(canvas.x - line) * 9) * (canvas.y < horizon + 0.02)
    canvas.add(rgb((0.62, 0.62, 0.9)), (np.float32(0.26) * glow).astype(np.float32))
    canvas.over(rgb((1.0, 0.98, 1.0)), np.clip(main + np.float32(0.7) * split, 0, 1).astype(np.float32))


def paint_rain(canvas: Canvas) -> None:
    """Thin slanting streaks, strongest towards the ground."""
    slant = canvas.x * 1.0 + canvas.y * np.float32(0.22)
    drops = canvas.noise.warped("rock", slant * np.float32(3.0), canvas.y * np.float32(0.10) + 0 * slant)
    canvas.add(rgb((0.75, 0.8, 0.9)), np.float32(0.075) * smooth(0.4, 2.0, drops))


def paint_snow(canvas: Canvas) -> None:
    """Falling flakes: some thirty soft dots, larger when near."""
    side = canvas.side
    x, y, near = canvas.random.random((3, 28))
    for px, py, size in zip(x * side, y * side, near, strict=True):
        radius = max((0.006 + 0.008 * size) * side, 0.7)
        reach = int(np.ceil(radius * 1.6))
        rows = np.arange(max(int(py) - reach, 0), min(int(py) + reach + 1, side))
        columns = np.arange(max(int(px) - reach, 0), min(int(px) + reach + 1, side))
        far = (rows[:, None] + 0.5 - py) ** 2 + (columns[None] + 0.5 - px) ** 2
        spot = np.float32(0.85) * np.exp(-far / (radius * radius)).astype(np.float32)
        part = canvas.image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part += (1.0 - part) * spot
