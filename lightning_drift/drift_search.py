"""Can some steps be taken back? The largest drift at which a checkpoint still dreams, found by bisection.

What is needed was kept in the checkpoint by ClipDrift: the probe pictures' prompts, seeds and settings, the
base's and the photos' features. Only the checkpoint's own pictures are rendered again, at each drift that is
tried, and judged as a milestone is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from lightning_drift.callbacks.drift_base import DriftBase
from lightning_drift.checkpointing import read_checkpoint
from lightning_drift.dreaming import dream
from lightning_drift.drift.features import Features
from lightning_drift.drift.frozen_clip import FrozenClip
from lightning_drift.drift.intervals import Interval
from lightning_drift.drift.meter import DriftMeter, Role
from lightning_drift.drift.verdict import Thresholds, Verdict, judge
from lightning_drift.drift_dial import MOST, dialled, turn
from lightning_drift.errors import UserError
from lightning_drift.pipeline_parts import TRAINED, PipelineParts
from lightning_drift.stable_diffusion import StableDiffusion, read_parts

PRECISION = 0.05
"""How near the end of dreaming the search goes; the measures of few seeds tell no finer."""
SEEDS = 4
"""Seeds of each prompt that are rendered at most."""
_SHOWN = ("language", "drift_prompt", "tilt", "spread", "pull", "copy")


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
        heads = ["drift", "zone", "position", *(name.replace("_", " ") for name in _SHOWN)]
        lines = [heads, ["---"] * len(heads)]
        for tried in sorted(self.tried, key=lambda tried: tried.drift):
            values = [f"{tried.measures[name].value:.2f}" for name in _SHOWN]
            lines.append([f"{tried.drift:g}", tried.verdict.zone, f"{tried.verdict.position:.0f}", *values])
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


def search(parts: PipelineParts, base: PipelineParts, clip: str | None) -> Search:
    """Find the largest drift at which a checkpoint of a fit with ClipDrift is still dreaming.

    Each drift that is tried is reported in a line. Computes on a CUDA device if there is one.

    Args:
        parts: The checkpoint.
        base: Its base.
        clip: The CLIP that ClipDrift measured with; None for the pocket's own, or ViT-L/14.

    Raises:
        UserError: The checkpoint holds no statistics of ClipDrift, the CLIP is another, or no drift dreams.
    """
    kept, photos = _kept(parts)
    eye = FrozenClip.load(clip or _usual_clip(base))
    if eye.hash != kept.settings["clip_drift.clip"]:
        raise UserError(
            f"--clip: {eye.name} is not the CLIP that this checkpoint was measured with during its fit; name "
            "that one (its clip_drift.clip)"
        )
    keys, roles, index = probe_pictures(kept)
    model = read_parts(parts)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for module in (model.unet, model.text_encoder):
        torch.nn.Module.to(module, device, torch.float16 if device == "cuda" else torch.float32)
    model.vae.to(device)
    eye.to(device)
    outcome = Search(1.0)

    def zone(drift: float) -> str:
        turn({part: getattr(model, part) for part in TRAINED}, dialled(parts, base, drift).weights)
        features = Features.of(_pictures(model, keys, kept.settings, f"drift {drift:g}"), eye)
        meter = DriftMeter(keys, roles, kept.pictures[index], photos, kept.texts, sync=False)
        meter.update(range(len(keys)), features)
        measures = meter.compute()
        outcome.tried.append(Tried(drift, measures, judge(measures, Thresholds())))
        tqdm.write(outcome.tried[-1].line)
        return outcome.tried[-1].verdict.zone

    outcome.drift = largest_dreaming(zone)
    return outcome


def _kept(parts: PipelineParts) -> tuple[DriftBase, Features]:
    """What ClipDrift kept in a checkpoint of the base and of the photos."""
    advice = "fit with a seed grid at step 0 and clip_drift, or give --drift a number"
    if not parts.source.endswith(".ckpt") or parts.step is None:
        raise UserError(f"--drift auto: {parts.source} is not a checkpoint of a fit; give --drift a number")
    state = read_checkpoint(parts.source).get("callbacks", {}).get("ClipDrift", {})
    if "base" not in state or "photos" not in state:
        raise UserError(
            f"--drift auto: {parts.source} holds nothing of ClipDrift to measure against; {advice}"
        )
    try:
        base, photos = DriftBase.from_state(state["base"]), Features.from_tensors(state["photos"])
    except UserError as error:
        raise UserError(
            f"--drift auto: what {parts.source} holds of ClipDrift cannot be used ({error}); {advice}"
        ) from error
    if base.texts is None or base.pictures.clip is None or photos.clip is None:
        raise UserError(f"--drift auto: {parts.source} was measured without a CLIP; {advice}")
    return base, photos


def _usual_clip(base: PipelineParts) -> str:
    return "pocket" if base.source == "pocket" else "openai/clip-vit-large-patch14"


def probe_pictures(base: DriftBase) -> tuple[list[tuple[str, int]], dict[str, Role], list[int]]:
    """The first few seeds of each prompt, the prompts' roles, and where the pictures are in the base's."""
    keys: list[tuple[str, int]] = []
    roles: dict[str, Role] = {}
    index = []
    for place, (prompt, seed, role) in enumerate(base.settings["seed_grid.groups"]):
        roles[prompt] = role
        if sum(key[0] == prompt for key in keys) < SEEDS:
            keys.append((prompt, seed))
            index.append(place)
    return keys, roles, index


def _pictures(
    model: StableDiffusion, keys: list[tuple[str, int]], settings: Mapping[str, Any], title: str
) -> list[Any]:
    """The probe pictures, made with the settings that the base's were made with."""
    images = []
    size = settings["seed_grid.batch_size"]
    with tqdm(total=len(keys), desc=title, unit="img", leave=False) as bar:
        for start in range(0, len(keys), size):
            batch = keys[start : start + size]
            images += dream(
                model,
                [prompt for prompt, _ in batch],
                [seed for _, seed in batch],
                negative_prompt=settings["seed_grid.negative_prompt"],
                guidance_scale=settings["seed_grid.guidance_scale"],
                num_inference_steps=settings["seed_grid.num_inference_steps"],
                height=settings["seed_grid.height"],
                width=settings["seed_grid.width"],
            )
            bar.update(len(batch))
    return images
