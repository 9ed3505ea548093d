"""Does a generated picture show what was asked? Sixteen probe prompts, and independent checks.

Shapes and places are judged by the pocket's CLIP (of another seed than the pipeline's text encoder), which
chooses among all alternatives. Colours, hours and some moods are judged by plain statistics of pixels,
whose limits are measured on painted scenes with and without the attribute, not set by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.pocket.clip import image_features, text_features
from training.pocket.scenes import HELD_OUT_SEED
from training.pocket.tokenizer import tokenize
from training.pocket.world.captions import (
    PLACES,
    STYLE_PHRASES,
    TIME_PHRASES,
    VIEWS,
    WEATHER_PHRASES,
    article,
)
from training.pocket.world.render import render, sample_scene
from training.pocket.world.scene import COLOURS, OBJECTS, TERRAINS, TIMES, WEATHERS

Pictures = NDArray[Any]


@dataclass(frozen=True)
class Probe:
    """What a prompt asks for; attributes that are None or empty are left open."""

    object: str | None = None
    colour: str | None = None
    terrain: str | None = None
    time: str | None = None
    weather: str | None = None
    style: str | None = None
    moods: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The prompt in the world's words."""
        words = []
        if self.object:
            words.append(article(" ".join(word for word in (self.colour, self.object) if word)))
            words += [PLACES[self.terrain][0]] if self.terrain else []
        elif self.terrain:
            words.append(VIEWS[self.terrain][0])
        if self.style:
            words.insert(0, STYLE_PHRASES[self.style][0])
        if self.time:
            words.append(TIME_PHRASES[self.time][0])
        parts = [" ".join(words)] if words else []
        parts += [WEATHER_PHRASES[self.weather][0]] if self.weather else []
        return ", ".join([*parts, *self.moods])


PROBES = (
    Probe(moods=("monumental", "dramatic", "atmospheric", "transcendent")),
    Probe("tower", "red", "hills", "noon"),
    Probe(terrain="sea", time="night"),
    Probe("castle", None, "forest", "dusk"),
    Probe("house", style="drawing"),
    Probe("dome", "golden", "sea"),
    Probe("lighthouse", None, "sea", weather="stormy"),
    Probe(terrain="city", time="night"),
    Probe(terrain="mountains", time="dawn"),
    Probe("monolith", "black", weather="snowy"),
    Probe("pyramid", None, "dunes", "noon"),
    Probe("tree", "orange", "meadow"),
    Probe("statue", "blue", time="dawn"),
    Probe("arch", None, "cliffs", "dusk"),
    Probe("castle", "violet", moods=("vivid",)),
    Probe("lighthouse", None, "sea", "noon", moods=("serene",)),
)

_CHOICES = {"object": OBJECTS, "terrain": TERRAINS, "weather": WEATHERS}
_UNSATURATED = ("white", "black", "grey")


def statistics(pictures: Pictures) -> dict[str, Pictures]:
    """Plain numbers of pictures (n, h, w, 3) in 0..1.

    Returns:
        ``sky`` (n, 6): mean colours of the upper two quarters; and (n,) each ``saturation``,
        ``corners`` (their brightness relative to the middle), ``beam`` (brightness of the upper
        middle relative to the upper sides) and ``roughness`` (mean difference of neighbours).
    """
    h, w = pictures.shape[1:3]
    grey = pictures @ np.array((0.299, 0.587, 0.114), pictures.dtype)
    sky = np.concatenate([pictures[:, : h // 4].mean((1, 2)), pictures[:, h // 4 : h // 2].mean((1, 2))], 1)
    spread = pictures.max(-1) - pictures.min(-1)
    k, m = h // 6, h // 4
    corner = [grey[:, :k, :k], grey[:, :k, -k:], grey[:, -k:, :k], grey[:, -k:, -k:]]
    corners = np.mean([part.mean((1, 2)) for part in corner], 0) / (grey[:, m:-m, m:-m].mean((1, 2)) + 0.05)
    upper = grey[:, : h // 2]
    sides = (upper[:, :, : w // 5].mean((1, 2)) + upper[:, :, -w // 5 :].mean((1, 2))) / 2
    beam = upper[:, :, 2 * w // 5 : 3 * w // 5].mean((1, 2)) - sides
    rough = np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))
    return {
        "sky": sky,
        "saturation": spread.mean((1, 2)),
        "corners": corners,
        "beam": beam,
        "roughness": rough,
    }


def colour_mask(pictures: Pictures, colour: str) -> Pictures:
    """Where pictures (n, h, w, 3) in 0..1 have a colour: its hue to a twenty-fourth, and not pale.

    White, black and grey are pixels that bright, that dark, or between, and unsaturated.
    """
    high, low = pictures.max(-1), pictures.min(-1)
    spread = high - low
    if colour in _UNSATURATED:
        bright = {"white": low > 0.68, "black": high < 0.22, "grey": (high > 0.22) & (high < 0.72)}[colour]
        return np.asarray((spread < 0.16) & bright)
    near = np.abs((_hue(pictures) - _hue(np.array(COLOURS[colour])) + 0.5) % 1 - 0.5) < 1 / 24
    return np.asarray(near & (spread > 0.30 * high) & (high > 0.15))


def colour_excess(pictures: Pictures, colour: str) -> Pictures:
    """How much more of a colour the columns of an object hold than the emptiest columns, (n,) in 0..1.

    A sky or a ground of that colour runs across the whole picture and cancels out.
    """
    w = pictures.shape[2]
    profile = colour_mask(pictures, colour)[:, pictures.shape[1] // 5 : -pictures.shape[1] // 10].mean(1)
    sums = np.pad(np.cumsum(profile, 1), ((0, 0), (1, 0)))
    k = w // 6
    smooth = (sums[:, k:] - sums[:, :-k]) / k
    return np.asarray(smooth.max(1) - smooth.min(1))


def _hue(pictures: Pictures) -> Pictures:
    """Hue on the circle 0..1."""
    r, g, b = pictures[..., 0], pictures[..., 1], pictures[..., 2]
    return np.asarray(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b) / (2 * np.pi) % 1)


#: Which statistic shows a mood or a style, and whether it is raised (1) or lowered (-1) by it.
_SIGNS = {
    "dramatic": ("corners", -1),
    "transcendent": ("beam", 1),
    "vivid": ("saturation", 1),
    "serene": ("roughness", -1),
    "desolate": ("saturation", -1),
    "drawing": ("saturation", -1),
}


def painted(probe: Probe, count: int, first: int = 10_000) -> Pictures:
    """Held-out scenes (n, 64, 64, 3) in 0..1 that show what a probe asks for, and anything else at random."""
    asked = {name: value for name, value in vars(probe).items() if value and name != "moods"}
    pictures = []
    for index in range(first, first + count):
        scene = sample_scene(HELD_OUT_SEED, index)
        free = tuple(mood for mood in scene.moods if mood in ("monumental", "atmospheric"))
        settled: dict[str, Any] = {"style": "photo", "colour": None} | asked
        pictures.append(render(replace(scene, moods=probe.moods or free, **settled)))
    return np.stack(pictures).astype(np.float32) / 255


@dataclass
class Checker:
    """Checks attributes of pictures.

    Args:
        clip: A CLIPModel in evaluation mode.
        tokenizer: Its tokenizer.
        count: Held-out scenes on which the light of the hours is measured.
    """

    clip: Any
    tokenizer: Any
    count: int = 1024
    _limits: dict[tuple[Probe, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scenes = [sample_scene(HELD_OUT_SEED, index) for index in range(self.count)]
        scenes = [scene for scene in scenes if scene.style != "drawing" and "desolate" not in scene.moods]
        pictures = np.stack([render(scene) for scene in scenes]).astype(np.float32) / 255
        sky, hours = statistics(pictures)["sky"], np.array([scene.time for scene in scenes])
        self._hours = []
        for hour in TIMES:
            rows = sky[hours == hour]
            spread = np.cov(rows.T) + 1e-3 * np.eye(6)
            self._hours.append((rows.mean(0), np.linalg.inv(spread), float(np.linalg.slogdet(spread)[1])))

    def limit(self, probe: Probe, name: str) -> float:
        """The limit of an attribute's statistic, from painted scenes of the probe with and without it."""
        if (probe, name) not in self._limits:
            having, lacking = [painted(probe, 32)], []
            if name == "colour":
                others = [colour for colour in COLOURS if colour != probe.colour]
                lacking = [painted(replace(probe, colour=c), 4, 20_000 + 4 * k) for k, c in enumerate(others)]
            elif name in probe.moods:
                rest = tuple(mood for mood in probe.moods if mood != name)
                lacking = [painted(replace(probe, moods=rest), 32, 20_000)]
            else:
                lacking = [painted(replace(probe, style="photo"), 32, 20_000)]
            values = [self.statistic(np.concatenate(part), probe, name) for part in (having, lacking)]
            has = np.repeat([True, False], [len(values[0]), len(values[1])])
            self._limits[probe, name] = _divide(np.concatenate(values), has)
        return self._limits[probe, name]

    def statistic(self, pictures: Pictures, probe: Probe, name: str) -> Pictures:
        """The statistic (n,) that an attribute raises."""
        if name == "colour":
            return colour_excess(pictures, probe.colour or "")
        statistic, sign = _SIGNS[name]
        return np.asarray(sign * statistics(pictures)[statistic])

    def hour(self, pictures: Pictures) -> list[str]:
        """The likeliest hour by the colours of the sky (Gaussian discriminant of held-out scenes)."""
        sky = statistics(pictures)["sky"]
        costs = []
        for centre, inverse, volume in self._hours:
            away = sky - centre
            costs.append(np.einsum("ni,ij,nj->n", away, inverse, away) + volume)
        return [TIMES[k] for k in np.argmin(costs, 0)]

    def chosen(self, pictures: Pictures, probe: Probe, kind: str) -> list[str]:
        """CLIP's choice among all alternatives of an attribute, the rest of the prompt unchanged."""
        choices = _CHOICES[kind]
        others: list[dict[str, Any]] = [{kind: choice} for choice in choices]
        texts = [replace(probe, **other).prompt for other in others]
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() * 2 - 1
        with torch.no_grad():
            prompts = text_features(self.clip, tokenize(self.tokenizer, texts))
            similarity = image_features(self.clip, images) @ prompts.T
        return [choices[k] for k in similarity.argmax(1).tolist()]

    def check(self, pictures: Pictures, probe: Probe) -> dict[str, list[bool]]:
        """For each asked attribute, whether each picture (n, 64, 64, 3) in 0..1 shows it."""
        result: dict[str, list[bool]] = {}
        for kind in _CHOICES:
            asked = getattr(probe, kind)
            if asked:
                result[kind] = [choice == asked for choice in self.chosen(pictures, probe, kind)]
        if probe.time:
            result["time"] = [hour == probe.time for hour in self.hour(pictures)]
        measured = [name for name in (*probe.moods, probe.style) if name in _SIGNS]
        for name in [*measured, *(["colour"] if probe.colour else [])]:
            values = self.statistic(pictures, probe, str(name))
            result[str(name)] = [bool(value) for value in values > self.limit(probe, str(name))]
        return result


def _divide(values: Pictures, has: Pictures) -> float:
    """The limit that best tells scenes with an attribute from those without (balanced accuracy)."""
    ordered = np.unique(values)
    limits = np.concatenate([ordered[:1] - 1e-6, (ordered[1:] + ordered[:-1]) / 2])
    right = (values[None] > limits[:, None]) == has[None]
    score = right[:, has].mean(1) + right[:, ~has].mean(1)
    best = np.flatnonzero(score == score.max())
    return float(limits[best[len(best) // 2]])
