"""The largest drift at which a checkpoint still dreams, found by bisection, for ``export --drift auto``.

Only the checkpoint's own probe pictures are rendered again, at each drift that is tried, and judged as the
fit judged its milestones; what they are compared with lies in the checkpoint (see ``CheckpointEvaluator``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tqdm import tqdm

from lightning_drift.common.errors import UserError
from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator, NoReferences
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import Verdict, judge
from lightning_drift.stable_diffusion.interpolation import MOST, interpolated
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline

PRECISION = 0.05
"""How near the end of dreaming the search goes; few seeds do not measure it finer."""
_OPTION = "--drift auto"
_COLUMNS = ("language", "drift_prompt", "tilt", "spread", "pull", "copy", "photo_loss")


@dataclass(frozen=True)
class Attempt:
    """What was measured at one drift."""

    drift: float
    measures: Mapping[str, Interval]
    verdict: Verdict

    @property
    def line(self) -> str:
        """One line for a terminal."""
        border = f" (borderline {self.verdict.borderline})" if self.verdict.borderline else ""
        return f"drift {self.drift:g}: {self.verdict.zone}{border}. {self.verdict.reason}"


@dataclass
class Search:
    """The outcome of a search.

    Attributes:
        drift: The largest drift of those that were tried at which the model dreams.
        attempts: What was measured at each drift, in the order of attempt.
    """

    drift: float
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def markdown(self) -> str:
        """The measures at each drift, in order of drift, and what was chosen."""
        columns = [name for name in _COLUMNS if all(name in attempt.measures for attempt in self.attempts)]
        heads = ["drift", "zone", "position", *(name.replace("_", " ") for name in columns)]
        lines = [heads, ["---"] * len(heads)]
        for attempt in sorted(self.attempts, key=lambda attempt: attempt.drift):
            values = [f"{attempt.measures[name].value:.2f}" for name in columns]
            position = "-" if attempt.verdict.position is None else f"{attempt.verdict.position:.0f}"
            lines.append([f"{attempt.drift:g}", attempt.verdict.zone, position, *values])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return (
            f"{table}\n\nThe drift of {self.drift:g} is the largest, to {PRECISION:g}, at which the model "
            f"was still dreaming. 0 is the base, 1 the model as trained, and {MOST} the end of the search."
        )


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
    """Find the largest drift at which a checkpoint of a fit with ClipDrift is still dreaming.

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

    def zone(drift: float) -> str:
        measures = evaluator.measure(interpolated(opened, base, drift).weights, f"drift {drift:g}")
        attempt = Attempt(drift, measures, judge(measures, evaluator.thresholds))
        outcome.attempts.append(attempt)
        tqdm.write(attempt.line)
        return attempt.verdict.zone

    outcome.drift = largest_dreaming(zone)
    return outcome
