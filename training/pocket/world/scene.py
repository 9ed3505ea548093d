"""What a scene is: its attributes, and how scenes are drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TERRAINS = ("mountains", "hills", "dunes", "sea", "forest", "city", "cliffs", "meadow")
TIMES = ("dawn", "noon", "dusk", "night")
WEATHERS = ("clear", "cloudy", "foggy", "stormy", "snowy")
OBJECTS = ("tower", "monolith", "pyramid", "castle", "house", "tree", "lighthouse", "arch", "statue", "dome")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.12, 0.10),
    "golden": (0.98, 0.74, 0.16),
    "blue": (0.13, 0.30, 0.86),
    "green": (0.12, 0.58, 0.20),
    "violet": (0.52, 0.18, 0.74),
    "white": (0.98, 0.98, 0.96),
    "black": (0.055, 0.055, 0.065),
    "grey": (0.50, 0.50, 0.52),
    "orange": (0.98, 0.46, 0.08),
    "pink": (0.98, 0.50, 0.68),
    "turquoise": (0.12, 0.72, 0.68),
}
SIZES = ("tiny", "", "huge")
POSITIONS = ("left", "", "right")
STYLES = ("photo", "painting", "drawing")
MOODS = ("monumental", "dramatic", "atmospheric", "transcendent", "serene", "desolate", "vivid")

#: Moods that cannot be seen together.
_OPPOSITES = (("dramatic", "serene"), ("desolate", "vivid"))


@dataclass(frozen=True)
class Scene:
    """One scene; equal scenes render to equal pictures.

    Attributes:
        terrain: One of ``TERRAINS``.
        time: One of ``TIMES``.
        weather: One of ``WEATHERS``.
        style: One of ``STYLES``.
        object: One of ``OBJECTS``, or None for a bare landscape.
        colour: A key of ``COLOURS``, or None for the object's own colour.
        size: ``tiny``, ``huge``, or empty for the usual size.
        position: ``left``, ``right``, or empty for the middle.
        luminary: True when the sun (by night the moon) is seen.
        moods: Distinct members of ``MOODS``, without opposites.
        seed: Seed of everything the attributes leave open.
    """

    terrain: str
    time: str
    weather: str
    style: str
    object: str | None
    colour: str | None
    size: str
    position: str
    luminary: bool
    moods: tuple[str, ...]
    seed: int

    @property
    def body(self) -> str | None:
        """``sun``, ``moon`` or None."""
        if not self.luminary:
            return None
        return "moon" if self.time == "night" else "sun"


def sample_scene(seed: int, index: int) -> Scene:
    """The scene number ``index`` of the world ``seed``.

    Attributes are independent up to what contradicts itself: monumental scenes show a huge object, fog and
    storm hide the sun, and opposite moods exclude each other. Every fourteenth scene or so carries the four
    moods of the essay's prompt together.

    Args:
        seed: The world's seed, 0 or more.
        index: The scene's number, 0 or more.
    """
    random = np.random.default_rng([seed, index])

    def pick(values: tuple[str, ...], p: tuple[float, ...] | None = None) -> str:
        return values[int(random.choice(len(values), p=p))]

    terrain = pick(TERRAINS)
    time = pick(TIMES)
    weather = pick(WEATHERS, (0.40, 0.15, 0.15, 0.15, 0.15))
    style = pick(STYLES, (0.82, 0.08, 0.10))
    count = int(random.choice(5, p=(0.36, 0.34, 0.16, 0.08, 0.06)))
    moods = [str(mood) for mood in random.choice(MOODS, count, replace=False)]
    if random.random() < 0.07:
        moods = ["monumental", "dramatic", "atmospheric", "transcendent"]
    for one, other in _OPPOSITES:
        if one in moods and other in moods:
            moods.remove(other)
    thing: str | None = pick(OBJECTS) if random.random() < 0.80 or "monumental" in moods else None
    size = "huge" if "monumental" in moods else pick(SIZES, (0.12, 0.66, 0.22))
    colour = pick(tuple(COLOURS)) if random.random() < 0.6 else None
    position = pick(POSITIONS, (0.25, 0.5, 0.25))
    luminary = bool(random.random() < 0.55) and weather not in ("foggy", "stormy")
    return Scene(
        terrain=terrain,
        time=time,
        weather=weather,
        style=style,
        object=thing,
        colour=colour if thing else None,
        size=size if thing else "",
        position=position if thing else "",
        luminary=luminary,
        moods=tuple(moods),
        seed=int(random.integers(1 << 31)),
    )
