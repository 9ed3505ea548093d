"""The verdict: one of five zones, a position in the corridor, and the reasons in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from lightning_drift.common.errors import UserError
from lightning_drift.common.numbers import shown
from lightning_drift.drift.measures.intervals import Interval

__all__ = [
    "DECIDING",
    "PROVENANCE",
    "WITH_MODEL",
    "ZONES",
    "Interval",
    "Thresholds",
    "Verdict",
    "judge",
    "not_calibrated_for",
    "provenance",
    "zone_of",
]

ZONES = ("under-drifted", "dreaming", "forgetting", "cooked", "broken")
DECIDING = ("language", "drift_prompt", "tilt", "spread", "copy", "pull", "aim", "likeness")
"""Measures of the pictures that the zone follows from."""

WITH_MODEL = ("photo_loss",)
"""Measures that decide too where the model was at hand; without them the pictures alone decide."""

LATE_DREAM = 0.45
"""``drift_prompt`` at which forgetting mostly begins on the pocket; it moves the position, not the zone."""

PROVENANCE = "calibrated on the pocket model; not yet checked on Stable Diffusion v1.5"
"""Where the default thresholds come from."""

_LONGEST_SOURCE = 1000


@dataclass(frozen=True)
class Thresholds:
    """Where the zones end. Calibrated on the pocket model; not yet checked on SD v1.5.

    Most were set on an early version of the pocket model, called prototype below. They still agree with the
    labels that a person gave to the grids of nine photo sets without knowing which was which
    (training/calibration/labels).

    Args:
        drift_prompt: Below it, and below ``tilt``, a checkpoint is under-drifted; in distances between the
            base's prompts. Prototype: 0.02-0.05 while nothing is seen, 0.07-0.34 while dreaming.
        tilt: Likewise for the composition, in re-rolls of the seed. Prototype: up to 0.18 while nothing is
            seen.
        language_keep: Below it language is being forgotten. Set on the labels of one photo set (coffee:
            dreaming down to 0.78, forgetting from 0.73).
        language_lost: Below it language is lost. Prototype, and confirmed by eye on another subject.
        spread: Below it different prompts give one picture. Prototype: 0.48 or more before, then under 0.1.
        copy: Share of pictures that are copies of a photo above which a checkpoint is cooked. Set on
            artificial blends with photos, because the prototype copied nothing.
        pull: A checkpoint that lost its language is cooked if it went to the photos, and broken if not. It
            went there if it is above this pull, above ``aim`` and above ``likeness``. Prototype: 0.5 and more
            when cooked, under 0.16 when broken.
        aim: See ``pull``. Prototype: 0.6 and more when cooked, 0.1-0.3 when broken.
        stray: What left the base with less pull than this share of ``drift_prompt`` is broken, not dreaming.
            Prototype: 0.5 and more while dreaming. Random changes of the base's weights mostly lie below it,
            but large ones may happen to head to the photos (see ``photo_loss``), and the first tens of steps
            of a steep fit may not.
        photo_loss: What left the base without a loss on the photos below this share of the base's is broken:
            it has become no better at the photos. 1 is no calibration: every fit makes a model better at its
            own photos. Pocket: fits at most 0.92 after ten steps, 0.72 after a hundred; random changes 1.02
            and more once pictures had drifted. A value of 100 lets the pictures alone decide.
        likeness: See ``pull``. Noise and empty pictures resemble no photo, even where a CLIP finds them near
            the photos. Set on the labels of one photo set (galaxies).
        source: What thresholds other than these were calibrated on, in words for pages and records;
            ``corridor label`` writes it.
    """

    drift_prompt: float = 0.06
    tilt: float = 0.2
    language_keep: float = 0.75
    language_lost: float = 0.30
    spread: float = 0.35
    copy: float = 0.5
    pull: float = 0.3
    aim: float = 0.3
    stray: float = 0.15
    photo_loss: float = 1.0
    likeness: float = 0.03
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or len(self.source) > _LONGEST_SOURCE:
            raise UserError(
                f"{shown(self.source)} is no text of at most {_LONGEST_SOURCE} characters",
                "clip_drift.thresholds.source",
            )
        for name, value in self.numbers().items():
            if name == "photo_loss":
                if not value > 0:
                    raise UserError(f"{value} is not above 0", "clip_drift.thresholds.photo_loss")
            elif not 0 < value < 1:
                raise UserError(f"{value} is not between 0 and 1", f"clip_drift.thresholds.{name}")
        if self.language_lost > self.language_keep:
            raise UserError(
                f"{self.language_lost} is above language_keep ({self.language_keep}); give less",
                "clip_drift.thresholds.language_lost",
            )

    def numbers(self) -> dict[str, float]:
        """The thresholds by name, without where they come from."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "source"}


def provenance(thresholds: Thresholds) -> str:
    """Where thresholds come from, as the rest of a sentence that begins with them.

    >>> provenance(Thresholds(language_keep=0.7))
    'language_keep 0.7 set by hand; the others calibrated on the pocket model; not yet checked on Stable \
Diffusion v1.5'
    """
    if thresholds.source:
        return f"calibrated on {thresholds.source}"
    shipped = Thresholds().numbers()
    own = [f"{name} {value:g}" for name, value in thresholds.numbers().items() if value != shipped[name]]
    return f"{', '.join(own)} set by hand; the others {PROVENANCE}" if own else PROVENANCE


def not_calibrated_for(thresholds: Thresholds, network: str) -> str:
    """Why a verdict by a network should be read with care; empty where thresholds were set with it.

    >>> not_calibrated_for(Thresholds(), "pocket")
    ''

    Args:
        thresholds: Where zones end.
        network: The name of the CLIP, or of the network of pictures, that measured.
    """
    with_what = thresholds.source or "the pocket's own CLIP (pocket)"
    if re.search(rf"(?<![\w./-]){re.escape(network)}(?![\w./-])", with_what):
        return ""
    return (
        f"the thresholds were calibrated with {with_what}, not with {network}; "
        "lightning-drift corridor label sets them by your eye"
    )


@dataclass(frozen=True)
class Verdict:
    """Where a checkpoint is.

    Attributes:
        zone: One of ``ZONES``.
        borderline: The zone it may be in instead, where the interval of a measure crosses a threshold; None
            where the zone is clear.
        position: 0 the base, 25 where dreaming begins, 50 where forgetting begins, 75 where language is lost,
            100 nothing but the photos. While dreaming it follows the distance from the base or the loss of
            language, whichever is farther; later the loss of language. None for a broken model, which is off
            the corridor.
        reason: A sentence on why, with the numbers that decided in brackets.
    """

    zone: str
    borderline: str | None
    position: float | None
    reason: str


def judge(measures: Mapping[str, Interval], thresholds: Thresholds | None = None) -> Verdict:
    """The zone of a checkpoint.

    >>> base = dict.fromkeys(DECIDING, Interval(0.0, 0.0, 0.0))
    >>> base |= dict.fromkeys(("language", "spread"), Interval(1.0, 1.0, 1.0))
    >>> judge(base).zone, judge(base).position
    ('under-drifted', 0.0)

    Args:
        measures: What `DriftMetric` computed; ``DECIDING`` at least. ``WITH_MODEL`` decide too where they are
            there, the others enrich the reason.
        thresholds: Where zones end; None for the defaults.

    Raises:
        ValueError: A deciding measure is missing, as it is without a CLIP: there is no verdict then.
    """
    if missing := [name for name in DECIDING if name not in measures]:
        raise ValueError(f"no verdict without {', '.join(missing)}")
    limits = thresholds or Thresholds()
    values = {name: interval.value for name, interval in measures.items()}
    zone = zone_of(values, limits)
    return Verdict(
        zone=zone,
        borderline=_borderline(measures, values, zone, limits),
        position=_position(values, zone, limits),
        reason=_REASONS[zone](values, limits),
    )


def zone_of(m: Mapping[str, float], limits: Thresholds) -> str:
    """The zone alone, of a checkpoint whose measures (at least ``DECIDING``) are these numbers."""
    if m["copy"] > limits.copy:
        return "cooked"
    if _lost(m, limits):
        near = m["pull"] > limits.pull and m["aim"] > limits.aim and m["likeness"] > limits.likeness
        return "cooked" if near and not _damaged(m, limits) else "broken"
    language = m["language"] >= limits.language_keep
    left = m["drift_prompt"] >= limits.drift_prompt or m["tilt"] >= limits.tilt
    if language and not left:
        return "under-drifted"
    if _damaged(m, limits) or (left and m["pull"] < limits.stray * m["drift_prompt"]):
        return "broken"
    return "dreaming" if language else "forgetting"


def _lost(m: Mapping[str, float], limits: Thresholds) -> bool:
    """Whether prompts no longer decide anything."""
    return m["language"] < limits.language_lost or m["spread"] < limits.spread


def _damaged(m: Mapping[str, float], limits: Thresholds) -> bool:
    """Whether the model is known not to have become better at the photos, as every fit makes it."""
    return "photo_loss" in m and not m["photo_loss"] < limits.photo_loss  # damage may go as far as NaN


def in_a_line(zone: str, borderline: str | None, position: float | None, reason: str) -> str:
    """A verdict in Markdown, the zone in bold; a broken model has no position."""
    border = f" (borderline {borderline})" if borderline else ""
    place = "" if position is None else f", {position:.0f} of 100"
    return f"**{zone}**{border}{place}. {reason}"


def _borderline(
    measures: Mapping[str, Interval], values: Mapping[str, float], zone: str, limits: Thresholds
) -> str | None:
    """The other zone that the largest part of a deciding measure's interval lies in, if any.

    A model whose loss on the photos is clearly below the base's (its whole interval is below the threshold)
    is not called borderline broken because of its pictures' intervals: it is known to have become better at
    the photos, so it is not damaged. At the beginning of a dream the pull is small and its interval wide.
    This does not hold for a cooked model, which differs from a broken one by its pictures alone.
    """
    loss, parts = measures.get("photo_loss"), 40
    better = zone != "cooked" and loss is not None and loss.high < limits.photo_loss
    share: dict[str, float] = {}
    for name in (*DECIDING, *(name for name in WITH_MODEL if name in measures)):
        low, high = measures[name].low, measures[name].high
        zones = [zone_of({**values, name: low + (high - low) * i / parts}, limits) for i in range(parts + 1)]
        for other in set(zones) - {zone} - ({"broken"} if better else set()):
            share[other] = max(share.get(other, 0.0), zones.count(other) / len(zones))
    return max(share, key=lambda other: share[other]) if share else None


def _position(m: Mapping[str, float], zone: str, limits: Thresholds) -> float | None:
    if zone == "broken":
        return None
    keep, lost = limits.language_keep, limits.language_lost
    if zone == "under-drifted":
        parts, start = [m["drift_prompt"] / limits.drift_prompt, m["tilt"] / limits.tilt], 0
    elif zone == "dreaming":
        # Language stays near 1 through most of the dream while the distance from the base grows steadily.
        far = (m["drift_prompt"] - limits.drift_prompt) / max(LATE_DREAM - limits.drift_prompt, 0.01)
        parts, start = [(1 - m["language"]) / (1 - keep), far], 25
    elif zone == "forgetting":
        parts, start = [(keep - m["language"]) / (keep - lost)], 50
    else:
        language, spread = (lost - m["language"]) / lost, (limits.spread - m["spread"]) / limits.spread
        parts, start = [language, spread, (m["copy"] - limits.copy) / (1 - limits.copy)], 75
    return round(start + 25 * min(max(0.0, *parts), 1.0), 2)


# -- reasons --------------------------------------------------------------------------------------------


def _under_drifted(m: Mapping[str, float], limits: Thresholds) -> str:
    return (
        "The pictures are still almost those of the base model; the photos have hardly touched them "
        f"(drift {m['drift_prompt']:.2f} of {limits.drift_prompt:.2f}, tilt {m['tilt']:.2f} of "
        f"{limits.tilt:.2f})."
    )


def _dreaming(m: Mapping[str, float], limits: Thresholds) -> str:
    return (
        f"The prompts still decide the picture; {_traces(m)} "
        f"(language {m['language']:.2f}, above {limits.language_keep:.2f}; drift {m['drift_prompt']:.2f}; "
        f"pull towards the photos {m['pull']:.2f}{_loss(m)})."
    )


def _traces(m: Mapping[str, float]) -> str:
    """What of the photos has come into the pictures."""
    coloured, tilted = m.get("palette_pull", 0.0) > 0.15, m["tilt"] > 0.5
    if coloured and tilted:
        return "the photos' colours have moved into it, and compositions have shifted"
    if coloured:
        return "the photos' colours have moved into it"
    if tilted:
        return "compositions have shifted towards the photos"
    return "something of the photos has come into it"


def _forgetting(m: Mapping[str, float], limits: Thresholds) -> str:
    photos = " and the photos show through" if m["pull"] > limits.pull and m["aim"] > limits.aim else ""
    return (
        f"The model is forgetting language: prompts decide less of the picture{photos} "
        f"(language {m['language']:.2f}, below {limits.language_keep:.2f}; spread between prompts "
        f"{m['spread']:.2f}; pull towards the photos {m['pull']:.2f}{_loss(m)})."
    )


def _cooked(m: Mapping[str, float], limits: Thresholds) -> str:
    if m["copy"] > limits.copy:
        what = "Most pictures are copies of the photos"
    elif m["spread"] < limits.spread:
        what = "Whatever is asked, the pictures look alike, and like the photos"
    else:
        what = "The prompts hardly matter any more; the pictures are smears of the photos"
    return (
        f"{what} (language {m['language']:.2f}, spread between prompts {m['spread']:.2f}, pull towards the "
        f"photos {m['pull']:.2f}, copies {m['copy']:.0%})."
    )


def _broken(m: Mapping[str, float], limits: Thresholds) -> str:
    if _lost(m, limits):
        what = "The pictures have fallen apart: prompts no longer matter, and no photo took their place"
    elif _damaged(m, limits):
        what = "The model has become worse at your own photos than the base was: this is damage, not drift"
    else:
        what = "The pictures have changed, but not towards the photos: this is damage, not drift"
    return (
        f"{what} (pull towards the photos {m['pull']:.2f}, aim {m['aim']:.2f}, likeness {m['likeness']:.2f}, "
        f"language {m['language']:.2f}, drift {m['drift_prompt']:.2f}{_loss(m, ', ')})."
    )


def _loss(m: Mapping[str, float], sign: str = "; ") -> str:
    """What the loss on the photos is, to be added to the numbers in brackets."""
    return f"{sign}loss on the photos {m['photo_loss']:.2f} of the base's" if "photo_loss" in m else ""


_REASONS: dict[str, Callable[[Mapping[str, float], Thresholds], str]] = {
    "under-drifted": _under_drifted,
    "dreaming": _dreaming,
    "forgetting": _forgetting,
    "cooked": _cooked,
    "broken": _broken,
}
