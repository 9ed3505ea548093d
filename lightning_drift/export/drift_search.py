"""Can some steps be taken back? The largest drift at which a checkpoint still dreams, found by bisection.

Only the checkpoint's own probe pictures are rendered again, at each drift that is tried, and judged as a
milestone is; what they are compared with was kept in the checkpoint (see ``drift_bench``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tqdm import tqdm

from lightning_drift.common.errors import UserError
from lightning_drift.drift.checkpoint_evaluator import CheckpointEvaluator
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.verdict import Thresholds, Verdict, judge
from lightning_drift.stable_diffusion.interpolation import MOST, interpolated
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline

PRECISION = 0.05
"""How near the end of dreaming the search goes; the measures of few seeds tell no finer."""
_SHOWN = ("language", "drift_prompt", "tilt", "spread", "pull", "copy", "photo_loss")


@dataclass(frozen=True)
class Tried:
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
        drift: The largest drift that was seen to dream.
        tried: What was measured at each drift, in the order it was tried.
    """

    drift: float
    tried: list[Tried] = field(default_factory=list)

    @property
    def markdown(self) -> str:
        """The measures at each drift, in order of drift, and what was chosen."""
        shown = [name for name in _SHOWN if all(name in tried.measures for tried in self.tried)]
        heads = ["drift", "zone", "position", *(name.replace("_", " ") for name in shown)]
        lines = [heads, ["---"] * len(heads)]
        for tried in sorted(self.tried, key=lambda tried: tried.drift):
            values = [f"{tried.measures[name].value:.2f}" for name in shown]
            position = "-" if tried.verdict.position is None else f"{tried.verdict.position:.0f}"
            lines.append([f"{tried.drift:g}", tried.verdict.zone, position, *values])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return (
            f"{table}\n\nThe drift of {self.drift:g} is the largest, to {PRECISION:g}, at which the model "
            f"was still dreaming, of 0 (the base) to {MOST} (1 is the model as trained)."
        )


def largest_dreaming(zone: Callable[[float], str]) -> float:
    """The largest drift in 0 to 1.5 that dreams, to ``PRECISION``, by bisection.

    It is assumed that zones follow each other as the drift grows: under-drifted, dreaming, what is beyond.

    Args:
        zone: Tells the zone at a drift; asked about 1 first, and beyond it only if that is not too far.

    Raises:
        UserError: No drift that was tried dreams.

    >>> largest_dreaming(lambda drift: "dreaming" if drift < 0.7 else "cooked")
    0.6875
    """
    seen = {0.0: "under-drifted"}

    def beyond(drift: float) -> bool:
        seen[drift] = zone(drift)
        return seen[drift] not in ("under-drifted", "dreaming")

    low, high = 0.0, 1.0
    if not beyond(1.0):
        low, high = 1.0, MOST
        if not beyond(MOST):
            low = MOST
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    dreaming = [drift for drift, found in seen.items() if found == "dreaming"]
    if dreaming:
        return max(dreaming)
    if low == MOST:
        raise UserError(f"--drift auto: the model is {seen[MOST]} even at a drift of {MOST}; train it longer")
    raise UserError(
        f"--drift auto: no drift dreams: at {low:.3g} the model is {seen[low]} and at {high:.3g} it is "
        f"{seen[high]}. Look at it with --model.drift in predict, or give --drift a number"
    )


def search(parts: OpenedPipeline, base: OpenedPipeline, clip: str | None) -> Search:
    """Find the largest drift at which a checkpoint of a fit with ClipDrift is still dreaming.

    Each drift that is tried is reported in a line. Computes on a CUDA device if there is one.

    Args:
        parts: The checkpoint.
        base: Its base.
        clip: The CLIP that ClipDrift measured with; None for the pocket's own, or ViT-L/14.

    Raises:
        UserError: The checkpoint holds no statistics of ClipDrift, the CLIP is another, or no drift dreams.
    """
    try:
        bench = CheckpointEvaluator(parts, base, clip)
    except UserError as error:
        raise _told(error) from error
    outcome = Search(1.0)

    def zone(drift: float) -> str:
        measures = bench.measure(interpolated(parts, base, drift).weights, f"drift {drift:g}")
        outcome.tried.append(Tried(drift, measures, judge(measures, Thresholds())))
        tqdm.write(outcome.tried[-1].line)
        return outcome.tried[-1].verdict.zone

    outcome.drift = largest_dreaming(zone)
    return outcome


def _told(error: UserError) -> UserError:
    """The same with the option that asked for it, and what to do instead."""
    said = str(error)
    if said.startswith(("--clip", "clip")):
        return error
    advice = "; give --drift a number"
    if "ClipDrift" in said or "without a CLIP" in said:
        advice = "; fit with a seed grid at step 0 and clip_drift, or give --drift a number"
    return UserError(f"--drift auto: {said}{advice}")
