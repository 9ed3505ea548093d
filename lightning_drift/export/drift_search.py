"""The drift at which a checkpoint still dreams, and has most of the photos, for ``export --drift auto``.

First the largest drift of the whole model, by bisection; then each part is kept and the other taken back
(`export/part_search`). Only the checkpoint's own probe pictures are rendered again, at each drift that is
tried, and judged as the fit judged its milestones; what they are compared with lies in the checkpoint (see
``CheckpointEvaluator``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from lightning_drift.common.errors import UserError
from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator, NoReferences
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import Thresholds, Verdict, judge
from lightning_drift.export.part_search import farthest_keeping
from lightning_drift.stable_diffusion.drift_dial import MOST, Drift, PartDrifts, dial_title, in_part
from lightning_drift.stable_diffusion.interpolation import interpolated
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline

PRECISION = 0.05
"""How near the end of dreaming the search goes; few seeds do not measure it finer."""
PARTS_PRECISION = 0.1
"""The same where one part is kept."""
_OPTION = "--drift auto"
_COLUMNS = ("language", "drift_prompt", "tilt", "spread", "pull", "copy", "photo_loss")


@dataclass(frozen=True)
class Attempt:
    """What was measured at one drift."""

    drift: Drift
    measures: Mapping[str, Interval]
    verdict: Verdict

    @property
    def title(self) -> str:
        """``drift 0.7``, or the parts with their own."""
        return dial_title(self.drift) if isinstance(self.drift, PartDrifts) else f"drift {self.drift:g}"

    @property
    def line(self) -> str:
        """One line for a terminal."""
        border = f" (borderline {self.verdict.borderline})" if self.verdict.borderline else ""
        return f"{self.title}: {self.verdict.zone}{border}. {self.verdict.reason}"

    @property
    def pull(self) -> float:
        """How far its pictures went towards the photos."""
        return self.measures["pull"].value

    @property
    def language(self) -> float:
        """How well prompts find their pictures."""
        return self.measures["language"].value


@dataclass
class Search:
    """The outcome of a search.

    Attributes:
        drift: The drift that was chosen of those that were tried at which the model dreams.
        attempts: What was measured at each drift, in the order of attempt.
        single: The largest drift of the whole model that dreams.
        kept: For each part that was kept the farthest drift that dreams; None where none does.
    """

    drift: Drift
    attempts: list[Attempt] = field(default_factory=list)
    single: float = 1.0
    kept: dict[str, Drift | None] = field(default_factory=dict)

    @property
    def markdown(self) -> str:
        """The measures at each drift, in order of drift, and what was chosen."""
        columns = [name for name in _COLUMNS if all(name in attempt.measures for attempt in self.attempts)]
        heads = ["drift", "zone", "position", *(name.replace("_", " ") for name in columns)]
        lines = [heads, ["---"] * len(heads)]
        for attempt in sorted(self.attempts, key=_order):
            values = [f"{attempt.measures[name].value:.2f}" for name in columns]
            position = "-" if attempt.verdict.position is None else f"{attempt.verdict.position:.0f}"
            lines.append([dial_title(attempt.drift), attempt.verdict.zone, position, *values])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return (
            f"{table}\n\nThe drift of {self.single:g} is the largest, to {PRECISION:g}, at which the model "
            f"was still dreaming. 0 is the base, 1 the model as trained, and {MOST} the end of the search."
            + "".join(f"\n\n{sentence}" for sentence in self._parts())
        )

    def _parts(self) -> list[str]:
        """What each part gives back, and which drift was chosen, in sentences."""
        if not self.kept:
            return []
        told = [f"One dial for both gives {self._at(self.single)}."]
        for part, drift in self.kept.items():
            name = _NAMES[part]
            if drift is None:
                told.append(f"With the {name} kept, nothing that was tried dreams.")
            else:
                one_dial = self._measured(drift).pull - self.gain(drift)
                told.append(
                    f"With the {name} kept it dreams up to {dial_title(drift)}: {self._at(drift)}; one dial "
                    f"has a pull of {one_dial:.2f} at that language."
                )
        told.append(
            f"{dial_title(self.drift)} was chosen, which pulls most towards the photos for its language; "
            f"{len(self.attempts)} drifts were rendered."
        )
        return [" ".join(told)]

    def _at(self, drift: Drift) -> str:
        measures = self._measured(drift).measures
        loss = f", loss on the photos {measures['photo_loss'].value:.2f}" if "photo_loss" in measures else ""
        return f"pull {measures['pull'].value:.2f}, language {measures['language'].value:.2f}{loss}"

    def _measured(self, drift: Drift) -> Attempt:
        return next(attempt for attempt in self.attempts if attempt.drift == drift)

    def gain(self, drift: Drift) -> float:
        """How much more a drift pulls towards the photos than one dial for both at the same language.

        Between the drifts of the whole model that were measured, and the base, its pull is taken to be linear
        in its language. So it does not matter how near the end of dreaming each of two drifts lies.
        """
        whole = [attempt for attempt in self.attempts if not isinstance(attempt.drift, PartDrifts)]
        points = sorted([(1.0, 0.0), *((attempt.language, attempt.pull) for attempt in whole)])
        languages, pulls = ([point[side] for point in points] for side in (0, 1))
        own = self._measured(drift)
        return own.pull - float(np.interp(own.language, languages, pulls))


_NAMES = {"unet": "UNet", "text_encoder": "text encoder"}


def _order(attempt: Attempt) -> tuple[bool, float, float]:
    """Drifts of the whole model first."""
    drift = attempt.drift
    return isinstance(drift, PartDrifts), in_part(drift, TRAINED[0]), in_part(drift, TRAINED[1])


def largest_dreaming(zone: Callable[[float], str]) -> float:
    """The largest drift in 0 to 1.5 that dreams, to ``PRECISION``, by bisection.

    The zones are assumed to follow each other as the drift grows: under-drifted, dreaming, what is beyond.

    Args:
        zone: Gives the zone at a drift; called with 1 first, and with more only if 1 is not too far.

    Raises:
        UserError: No drift that was tried dreams.

    >>> largest_dreaming(lambda drift: "dreaming" if drift < 0.7 else "cooked")
    0.6875
    """
    zones = {0.0: "under-drifted"}

    def beyond(drift: float) -> bool:
        zones[drift] = zone(drift)
        return zones[drift] not in ("under-drifted", "dreaming")

    low, high = 0.0, 1.0
    if not beyond(1.0):
        low, high = 1.0, MOST
        if not beyond(MOST):
            low = MOST
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    dreaming = [drift for drift, name in zones.items() if name == "dreaming"]
    if dreaming:
        return max(dreaming)
    if low == MOST:
        raise UserError(f"the model is {zones[MOST]} even at a drift of {MOST}; train it longer", _OPTION)
    raise UserError(
        f"no drift dreams: at {low:.3g} the model is {zones[low]} and at {high:.3g} it is {zones[high]}. "
        "Look at it with --model.drift in predict, or give --drift a number",
        _OPTION,
    )


def search(opened: OpenedPipeline, base: OpenedPipeline, clip: str | None) -> Search:
    """Find the drift at which a checkpoint of a fit with ClipDrift still dreams, and has most of the photos.

    Of the largest drift of the whole model and the farthest that keep one part, it is the one that pulls most
    towards the photos for its language (`Search.gain`). A model that dreams as it is is not searched by part.
    Each drift that is tried is reported in a line. Computes on a CUDA device if there is one.

    Args:
        opened: The checkpoint.
        base: Its base.
        clip: The CLIP that ClipDrift measured with; None for the pocket's own, or ViT-L/14.

    Raises:
        UserError: The checkpoint holds no statistics of ClipDrift, the CLIP is another, or no drift dreams.
    """
    try:
        evaluator = CheckpointEvaluator(opened, base, clip)
    except NoReferences as error:
        advice = f"{error.advice}, or " if error.advice else ""
        raise UserError(f"{error.message}; {advice}give --drift a number", _OPTION) from error
    outcome = Search(1.0)
    known: dict[Drift, Attempt] = {}

    def zone(drift: Drift) -> str:
        if drift not in known:
            measures = evaluator.measure(interpolated(opened, base, drift).weights, f"drift {drift:g}")
            known[drift] = Attempt(drift, measures, judge(measures, evaluator.thresholds))
            outcome.attempts.append(known[drift])
            tqdm.write(known[drift].line)
        return known[drift].verdict.zone

    outcome.drift = outcome.single = largest_dreaming(zone)
    if outcome.single < 1 and (opened.recipe or {}).get("train_text_encoder") is not False:

        def place(drift: Drift) -> str:
            zone(drift)
            return _place(known[drift], evaluator.thresholds)

        outcome.kept = _keeping_parts(place, outcome)
        dreaming = [outcome.single, *(drift for drift in outcome.kept.values() if drift is not None)]
        outcome.drift = max(dreaming, key=outcome.gain)
    return outcome


def _place(attempt: Attempt, thresholds: Thresholds) -> str:
    """Where a drift is on a line on which one part is kept.

    A text encoder without its UNet changes pictures that nothing of the photos comes into: that is called
    broken, and is no end of dreaming.
    """
    zone = attempt.verdict.zone
    astray = zone == "broken" and attempt.measures["language"].value >= thresholds.language_keep
    return zone if zone == "dreaming" else "short" if astray or zone == "under-drifted" else "beyond"


def _keeping_parts(place: Callable[[Drift], str], outcome: Search) -> dict[str, Drift | None]:
    """For each part the farthest drift that dreams and keeps most of it."""
    tried = {a.drift: a.verdict.zone for a in outcome.attempts if not isinstance(a.drift, PartDrifts)}
    high = min(drift for drift in tried if drift > outcome.single)
    return {part: farthest_keeping(part, place, outcome.single, high, PARTS_PRECISION) for part in TRAINED}
