"""Captions: true sentences about a scene, of many lengths and orders, down to one word and none."""

from __future__ import annotations

import numpy as np

from training.pocket.world.scene import Scene

PLACES: dict[str, tuple[str, ...]] = {
    "mountains": ("in the mountains", "before mountains", "under high mountains"),
    "hills": ("on green hills", "among hills", "in rolling hills"),
    "dunes": ("in the dunes", "in a desert", "among desert dunes"),
    "sea": ("by the sea", "in the sea", "on a rock in the sea"),
    "forest": ("in a forest", "among pine trees", "in the woods"),
    "city": ("in a city", "before a city skyline", "in the city"),
    "cliffs": ("between cliffs", "in a canyon", "among cliffs"),
    "meadow": ("in a meadow", "in a field of flowers", "on a meadow"),
}
VIEWS: dict[str, tuple[str, ...]] = {
    "mountains": ("mountains", "high mountains", "a mountain range"),
    "hills": ("hills", "green hills", "rolling hills"),
    "dunes": ("dunes", "desert dunes", "a desert"),
    "sea": ("the sea", "sea", "the open sea"),
    "forest": ("a forest", "forest", "a pine forest"),
    "city": ("a city", "a city skyline", "city"),
    "cliffs": ("cliffs", "a canyon", "a canyon of cliffs"),
    "meadow": ("a meadow", "a field of flowers", "meadow"),
}
TIME_PHRASES: dict[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "dawn", "sunrise", "in the morning"),
    "noon": ("at noon", "noon", "daylight", "by day"),
    "dusk": ("at dusk", "dusk", "sunset", "in the evening"),
    "night": ("at night", "night", "by night"),
}
WEATHER_PHRASES: dict[str, tuple[str, ...]] = {
    "clear": ("clear sky", "clear", "under a clear sky"),
    "cloudy": ("cloudy", "clouds", "under a cloudy sky"),
    "foggy": ("foggy", "fog", "in fog"),
    "stormy": ("stormy", "storm", "lightning", "in a storm"),
    "snowy": ("snowy", "snow", "in snow"),
}
BODY_PHRASES: dict[str, tuple[str, ...]] = {"sun": ("sun", "bright sun"), "moon": ("moon", "full moon")}
STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of", "photo of", "a picture of"),
    "painting": ("a painting of", "an oil painting of"),
    "drawing": ("a drawing of", "a pencil drawing of"),
}


def caption(scene: Scene, random: np.random.Generator) -> str:
    """One caption of a scene.

    About one in fifty is empty, one in fourteen a single word, and of scenes with moods every seventh names
    only these; the rest are phrases that leave out attributes at random. A style other than photo, and moods,
    are named more often than not, because they change the whole picture.

    Args:
        scene: The scene.
        random: The stream that decides what is said, and in which order.
    """

    def one(values: tuple[str, ...]) -> str:
        return values[int(random.integers(len(values)))]

    def chance(p: float) -> bool:
        return bool(random.random() < p)

    moods = [str(mood) for mood in random.permutation(scene.moods)] if scene.moods else []
    kind = random.random()
    if kind < 0.02:
        return ""
    if kind < 0.09:
        words = [scene.time, scene.terrain, *moods]
        if scene.weather != "clear":
            words.append(scene.weather)
        if scene.object:
            words += [scene.object] * 2
        if scene.style != "photo":
            words.append(scene.style)
        return one(tuple(words))
    if moods and kind < 0.22:
        return ", ".join(moods)
    if len(moods) == 4 and kind < 0.50:
        return ", ".join(scene.moods)

    tail: list[str] = []
    if scene.object:
        words = []
        if scene.size and not ("monumental" in moods and chance(0.6)):
            words.append(scene.size)
        if scene.colour:
            words.append(scene.colour)
        head = article(" ".join([*words, scene.object]))
        if scene.position and chance(0.55):
            head += " on the " + scene.position
        if chance(0.85):
            head += " " + one(PLACES[scene.terrain])
    else:
        head = one(VIEWS[scene.terrain])
    if chance(0.82):
        time = one(TIME_PHRASES[scene.time])
        if " " in time and chance(0.6):
            head += " " + time
        else:
            tail.append(time)
    if chance(0.80 if scene.weather != "clear" else 0.35):
        tail.append(one(WEATHER_PHRASES[scene.weather]))
    if scene.body and chance(0.6):
        tail.append(one(BODY_PHRASES[scene.body]))
    tail = [str(part) for part in random.permutation(tail)] if tail else []
    if scene.style != "photo" or chance(0.35):
        head = f"{one(STYLE_PHRASES[scene.style])} {head}"
    parts = [head, *tail]
    if moods and chance(0.9):
        parts = [*moods, *parts] if chance(0.4) else [*parts, *moods]
    return ", ".join(parts)


def full_caption(scene: Scene) -> str:
    """The caption that names every attribute, always in the same order: what retrieval is measured on."""
    if scene.object:
        words = [word for word in (scene.size, scene.colour, scene.object) if word]
        head = article(" ".join(words)) + (f" on the {scene.position}" if scene.position else "")
        head += " " + PLACES[scene.terrain][0]
    else:
        head = VIEWS[scene.terrain][0]
    parts = [
        f"{STYLE_PHRASES[scene.style][0]} {head} {TIME_PHRASES[scene.time][0]}",
        WEATHER_PHRASES[scene.weather][0],
    ]
    return ", ".join([*parts, *([scene.body] if scene.body else []), *scene.moods])


def article(words: str) -> str:
    """The words after a or an."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
