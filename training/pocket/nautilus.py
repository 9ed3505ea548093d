"""Render the bundled subject set ``nautilus``: a striped shell on dark teal cloth, eight views of 512 x 512.

    python -m training.pocket.nautilus lightning_drift/assets/photos/nautilus

Everything is computed here: a logarithmic spiral with a round tube as a height field, a folded cloth under
it, one key light, a soft fill, shadow and gloss. The pocket's world holds nothing like it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.command_line import command_parser, run_command

SIDE = 1024
GROWTH = 0.185  # radius shrinks by exp(-2 pi 0.185) = 0.31 a turn

Array = NDArray[Any]


def fractal(random: np.random.Generator, exponent: float, stretch: float = 1.0) -> Array:
    """Periodic noise (1024, 1024) of unit variance with a power-law spectrum."""
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.rfftfreq(SIDE) * stretch, indexing="ij")
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(random.standard_normal((SIDE, SIDE))) / radius**exponent)
    return np.asarray(field / field.std())


def smooth(low: float, high: float, x: Array) -> Array:
    """Hermite step."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blur(field: Array, radius: float) -> Array:
    """Gaussian blur of a field in 0..1."""
    image = Image.fromarray((np.clip(field, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float64) / 255


def normals(height: Array, strength: float) -> tuple[Array, Array, Array]:
    """Unit normals of a height field in sides of the picture."""
    gy, gx = np.gradient(height * SIDE * strength)
    length = np.sqrt(gx * gx + gy * gy + 1)
    return -gx / length, -gy / length, 1 / length


def shell(seed: int) -> Image.Image:
    """One view."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE + 0.5 / SIDE
    turn, sway = random.uniform(0, 2 * np.pi), random.uniform(0, np.pi)
    scale, squeeze = random.uniform(0.42, 0.56), random.uniform(0.82, 1.0)
    cx, cy = 0.5 + random.uniform(-0.07, 0.07, 2)
    mirror = 1 if random.random() < 0.7 else -1
    azimuth = random.uniform(-2.4, -0.7)
    light = np.array([np.cos(azimuth) * 0.62, np.sin(azimuth) * 0.62, 0.78])
    light /= np.linalg.norm(light)

    a, b = (
        (x - cx) * np.cos(sway) + (y - cy) * np.sin(sway),
        (y - cy) * np.cos(sway) - (x - cx) * np.sin(sway),
    )
    b = b / squeeze
    # The spiral's eye lies off the middle of the shell, towards the opening's other side.
    a, b = a * np.cos(turn) - b * np.sin(turn), (a * np.sin(turn) + b * np.cos(turn)) * mirror
    a, b = a / scale + 0.18, b / scale + 0.10
    radius, angle = np.hypot(a, b) + 1e-6, np.arctan2(b, a) % (2 * np.pi)
    outer = np.exp(-GROWTH * (2 * np.pi - angle))
    turns = np.log(outer / radius) / (2 * np.pi * GROWTH)
    whorl = np.floor(turns)
    inner_ratio = np.exp(-2 * np.pi * GROWTH)
    local = outer * inner_ratio**whorl
    place = (local - radius) / (local * (1 - inner_ratio))
    tube = np.sqrt(np.clip(1 - (2 * place - 1) ** 2, 0, 1))
    inside = smooth(1.0, 0.994, radius / outer) * (radius > 0.004)
    height = local * (1 - inner_ratio) * 0.5 * tube * 1.05
    along = angle - 2 * np.pi * whorl

    lip = np.sqrt(((a - 0.655) / 0.345) ** 2 + (b / 0.15) ** 2)
    mouth = smooth(1.012, 1.0, lip) * (b > -0.001)
    throat = smooth(0.97, 0.45, np.sqrt(((a - 0.655) / 0.31) ** 2 + ((b - 0.012) / 0.115) ** 2))
    rim = np.sqrt(np.clip(1 - ((lip - 0.94) / 0.075) ** 2, 0, 1))
    body = np.maximum(inside, mouth)
    height = np.where(mouth > 0.5, 0.20 + 0.06 * rim - 0.22 * throat, height) * scale

    folds = fractal(random, 2.2, 2.6)
    tilt = random.uniform(0, np.pi)
    pleats = np.sin((x * np.cos(tilt) + y * np.sin(tilt)) * 17 + 2.6 * fractal(random, 2.3))
    weave = np.sin(x * 2 * np.pi * 170) * np.sin(y * 2 * np.pi * 170)
    cloth_height = 0.016 * folds + 0.010 * pleats
    nx, ny, nz = normals(cloth_height, 1.0)
    facing = np.clip(nx * light[0] + ny * light[1] + nz * light[2], 0, 1)
    teal = np.array([0.030, 0.215, 0.225])
    sheen = np.clip(1 - nz, 0, 1) ** 1.2
    pool = np.exp(-((x - 0.5 - 0.28 * light[0]) ** 2 + (y - 0.5 - 0.28 * light[1]) ** 2) * 2.4)
    cloth = teal * (0.16 + 1.35 * facing**2.2 * pool * (1 + 0.10 * weave))[..., None]
    cloth = cloth + np.array([0.10, 0.34, 0.33]) * (sheen * facing * 0.35 * pool)[..., None]

    reach = int(SIDE * 0.075 * scale / 0.45)
    cast = np.roll(body, (round(-light[1] * reach), round(-light[0] * reach)), (0, 1))
    shadow = np.clip(0.80 * blur(cast, 26) + 0.35 * blur(body, 9), 0, 0.92)
    cloth = cloth * (1 - shadow)[..., None]

    wave = 0.32 * np.sin(place * 5.2 + 0.9) + 0.06 * fractal(random, 1.8)
    stripe = smooth(-0.12, 0.12, np.sin(along * 4.0 + wave * 2.2) + 0.12)
    stripe = stripe * smooth(0.02, 0.10, place) * (0.55 + 0.45 * smooth(1.0, 0.55, place))
    cream, rust, rose = (
        np.array([0.97, 0.90, 0.76]),
        np.array([0.76, 0.22, 0.07]),
        np.array([0.80, 0.20, 0.42]),
    )
    colour = cream + (rust - cream) * stripe[..., None]
    colour = colour + (rose - colour) * (0.42 * np.clip(whorl, 0, 2) / 2 * (0.4 + 0.6 * stripe))[..., None]
    growth = np.sin(along * 150 + place * 9 + 0.6 * fractal(random, 1.6))
    colour = colour * (1 + 0.045 * growth * smooth(0.0, 0.15, place))[..., None]
    pearl = 0.5 + 0.5 * np.sin(
        np.stack([9 * lip + 14 * a, 9 * lip + 14 * a + 1.1, 9 * lip + 14 * a + 2.3], -1)
    )
    inner = np.array([0.86, 0.70, 0.58]) * (0.82 + 0.22 * pearl) * (1 - 0.86 * throat)[..., None]
    colour = np.where((mouth > 0.5)[..., None], inner, colour)

    nx, ny, nz = normals(height + 0.0005 * growth * (mouth < 0.5), 1.0)
    facing = np.clip(nx * light[0] + ny * light[1] + nz * light[2], 0, 1)
    half = light + np.array([0, 0, 1.0])
    half /= np.linalg.norm(half)
    gloss = np.clip(nx * half[0] + ny * half[1] + nz * half[2], 0, 1)
    crease = 0.42 + 0.58 * smooth(0.0, 0.16, np.minimum(place, 1 - place) + (mouth > 0.5))
    lit = colour * ((0.20 + 0.98 * facing) * crease)[..., None]
    lit = lit + colour * np.array([0.05, 0.13, 0.14]) * (np.clip(-ny + 0.3, 0, 1) * (1 - facing))[..., None]
    lit = lit + (0.42 * gloss**70 + 0.10 * gloss**12)[..., None] * np.array([1.0, 0.97, 0.92])

    image = cloth + (lit - cloth) * body[..., None]
    vignette = 1 - 0.42 * smooth(0.38, 0.78, np.hypot(x - 0.5, y - 0.5))
    image = np.clip(image * vignette[..., None], 0, None)
    image = image / (1 + 0.12 * image)  # roll off the highlights
    image = np.clip(image, 0, 1) ** (1 / 1.25) + 0.006 * random.standard_normal((SIDE, SIDE, 1))
    picture = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
    return picture.resize((512, 512), Image.Resampling.LANCZOS)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder for 01.jpg to 08.jpg")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    folder: Path = arguments(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 9):
        shell(40 + number).save(folder / f"{number:02d}.jpg", quality=90)


if __name__ == "__main__":
    run_command(main)
