"""What ClipDrift keeps in a checkpoint: the base's statistics, the photos' and the verdicts so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import user_path
from lightning_drift.drift.base import JUDGES, DriftBase, differences, tensors_of
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.photo_base import PhotoBase
from lightning_drift.drift.verdict import ZONES, Thresholds
from lightning_drift.fit.checkpoint_file import read_checkpoint


@dataclass(frozen=True)
class DriftState:
    """What a checkpoint holds of ClipDrift. Each part is read when it is asked for.

    Attributes:
        entries: Tensors and plain values by part, as they lie in the checkpoint.
    """

    entries: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> DriftState:
        """What a checkpoint file holds; without entries if its fit ran without ClipDrift.

        Raises:
            UserError: The file cannot be read.
        """
        return cls(read_checkpoint(path).get("callbacks", {}).get("ClipDrift", {}))

    def updated(
        self,
        base: DriftBase | None,
        photos: Features | None,
        photo_base: PhotoBase | None,
        pooled: tuple[Sequence[str], Tensor] | None,
        zones: Mapping[int, str],
    ) -> DriftState:
        """The state after this run; what the run does not know stays as it was.

        Args:
            base: The base's statistics.
            photos: Features of the photos. With them a former `photo_base` goes, which may be of others.
            photo_base: The base's loss on these photos.
            pooled: The base text encoder's embeddings and their prompts.
            zones: Verdicts by step.
        """
        entries = dict(self.entries)
        if base is not None:
            entries["base"] = base.state()
        if photos is not None:
            entries["photos"] = photos.tensors()
            entries.pop("photo_base", None)
        if photo_base is not None:
            entries["photo_base"] = photo_base.state()
        if pooled is not None:
            entries["text"] = {"prompts": list(pooled[0]), "pooled": pooled[1]}
        if zones:
            entries["zones"] = {str(step): zone for step, zone in zones.items()}
        return DriftState(entries)

    # -- parts ------------------------------------------------------------------------------------------

    def base(self) -> DriftBase | None:
        """The base's statistics.

        Raises:
            UserError: Another version wrote them.
        """
        return DriftBase.from_state(self.entries["base"]) if "base" in self.entries else None

    def photos(self) -> Features | None:
        """Features of the training photos.

        Raises:
            UserError: They are damaged.
        """
        if "photos" not in self.entries:
            return None
        # A checkpoint's tensors lie in a mapped file.
        return Features.from_tensors(
            tensors_of({"tensors": self.entries["photos"]}, "features of the photos")
        )

    def photo_base(self) -> PhotoBase | None:
        """The base's loss on the photos.

        Raises:
            UserError: Another version wrote it.
        """
        return PhotoBase.from_state(self.entries["photo_base"]) if "photo_base" in self.entries else None

    def pooled(self, prompts: Sequence[str]) -> Tensor | None:
        """The base text encoder's embeddings of just these prompts, shape (p, d)."""
        text = self.entries.get("text")
        if not isinstance(text, Mapping) or text.get("prompts") != list(prompts):
            return None
        pooled = text.get("pooled")
        if not isinstance(pooled, Tensor) or pooled.ndim != 2 or len(pooled) != len(prompts):
            return None
        return pooled if pooled.isfinite().all() else None

    def thresholds(self) -> Thresholds:
        """Where the zones of the verdicts end; the default ones if the checkpoint holds none.

        Raises:
            UserError: Another version wrote them.
        """
        try:
            return Thresholds(**self.entries.get("thresholds", {}))
        except TypeError as error:
            raise UserError(f"its thresholds are of another version: {error}") from error

    def image_model(self) -> str | None:
        """The name of the network by which pictures were compared; None for the CLIP."""
        name = self.entries.get("image_model")
        return name if isinstance(name, str) else None

    def zones(self) -> dict[int, str]:
        """Verdicts by step."""
        zones = self.entries.get("zones")
        if not isinstance(zones, Mapping):
            return {}
        return {
            int(step): zone
            for step, zone in zones.items()
            if str(step).isdecimal() and len(str(step)) < 12 and zone in ZONES
        }

    # -- parts that fit a run ---------------------------------------------------------------------------

    def matching_base(
        self, settings: Mapping[str, Any], cache_dir: str | None
    ) -> tuple[DriftBase | None, str]:
        """The base's statistics if they fit a run, else those of the cache; None, and why, if neither fits.

        Statistics that another CLIP took are used if there are no better ones: the measures without CLIP
        hold.

        Args:
            settings: What this run's base follows from (`DriftEvaluator.settings`).
            cache_dir: The cache folder, if there is one.
        """
        base, reason = None, "this run began without a grid at step 0"
        try:
            base = self.base()
        except UserError as error:
            reason = str(error)
        if base is not None:
            different = differences(base.settings, settings)
            if not different:
                return base, ""
            if not set(different) <= set(JUDGES):
                base, reason = None, f"the checkpoint's were made with another {', another '.join(different)}"
        cached = DriftBase.load(user_path(cache_dir, "clip_drift.cache_dir"), settings) if cache_dir else None
        return cached or base, reason

    def matching_photo_base(self, settings: Mapping[str, Any]) -> tuple[PhotoBase | None, str]:
        """The base's loss on the photos if it fits a run; None, and why, if it does not.

        Args:
            settings: `photo_settings` of the run.
        """
        try:
            base = self.photo_base()
        except UserError as error:
            return None, str(error)
        if base is None:
            return None, "the checkpoint holds none"
        if different := differences(base.settings, settings):
            return None, f"the checkpoint's was taken with another {', another '.join(different)}"
        return base, ""
