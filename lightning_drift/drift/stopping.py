"""StopRule: ends a fit at a zone, and keeps its last checkpoint that dreams."""

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import Trainer

from lightning_drift.common.errors import UserError, notice
from lightning_drift.drift.verdict import ZONES
from lightning_drift.fit.checkpointing import PATTERN, StepCheckpoint

STOPPING = ZONES[ZONES.index("dreaming") :]
"""Zones that a fit can end at."""


class StopRule:
    """Ends a fit at a zone or beyond, and has the last dreaming checkpoint saved and never deleted.

    Args:
        zone: The zone, one of ``STOPPING``; None never ends a fit and keeps nothing.

    Attributes:
        zones: Verdicts by step, from before a resume too.

    Raises:
        UserError: It is no such zone.
    """

    def __init__(self, zone: str | None) -> None:
        if zone is not None and zone not in STOPPING:
            raise UserError(
                f"{zone!r} is not a zone to stop at; give one of {', '.join(STOPPING)}",
                "clip_drift.stop_when",
            )
        self.zone = zone
        self.zones: dict[int, str] = {}

    def begin(self, trainer: Trainer) -> None:
        """Before the first step: keep what dreamt before a resume, and say what is missing."""
        if self.zone is None:
            return
        if _step_checkpoint(trainer) is None:
            notice("clip_drift.stop_when: there is no StepCheckpoint to keep the last dreaming checkpoint")
        self._require_last_dreaming(trainer)

    def apply(self, trainer: Trainer, step: int) -> None:
        """After a milestone's verdict, on every rank: all ranks do as the first one's verdict says."""
        if self.zone is None:
            return
        zone = trainer.strategy.broadcast(self.zones.get(step))
        if zone is None:
            return
        self.zones[step] = zone
        checkpoint = self._require_last_dreaming(trainer)
        if ZONES.index(zone) >= ZONES.index(self.zone):
            trainer.should_stop = True
            where = (
                f"the last dreaming checkpoint is {checkpoint}"
                if checkpoint
                else "no milestone before was dreaming"
            )
            notice(f"the fit ends at step {step} because it is {zone} (clip_drift.stop_when); {where}")

    def _require_last_dreaming(self, trainer: Trainer) -> Path | None:
        """Have the last dreaming checkpoint kept; its file, if any milestone dreamt."""
        dreaming = [step for step, zone in self.zones.items() if zone == "dreaming"]
        checkpoint = _step_checkpoint(trainer)
        if not dreaming or checkpoint is None:
            return None
        checkpoint.require(max(dreaming))
        return checkpoint.folder(trainer) / PATTERN.format(step=max(dreaming))


def check_not_ended(zone: str | None, zones: Mapping[int, str]) -> None:
    """Refuse to go on with a fit past the step where it ended at a zone.

    Args:
        zone: The zone to end at; None for none.
        zones: Verdicts by step, as the checkpoint to resume from holds them.

    Raises:
        UserError: It was at this zone or beyond; the step is named.
    """
    ended = zone in ZONES and [s for s, known in zones.items() if ZONES.index(known) >= ZONES.index(zone)]
    if ended:
        step = min(ended)
        raise UserError(
            f"the fit ended at step {step}, because it was {zones[step]}; to go on from there, give a later "
            "zone or null",
            "clip_drift.stop_when",
        )


def _step_checkpoint(trainer: Trainer) -> StepCheckpoint | None:
    return next((c for c in trainer.callbacks if isinstance(c, StepCheckpoint)), None)  # type: ignore[attr-defined]
