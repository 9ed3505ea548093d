"""What a fit's milestones are compared with: the base model, the photos, and the base's loss on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import user_path
from lightning_drift.drift.base import DriftBase
from lightning_drift.drift.evaluator import Context, DriftEvaluator, Pictures
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.photo_base import PhotoBase, photo_settings
from lightning_drift.drift.probes import held_out_photos, instance_photos
from lightning_drift.drift.state import DriftState


class References:
    """Takes the references of a run, or finds them in its checkpoint or in the cache.

    Args:
        cache_dir: Folder where the base model's statistics are kept between runs; None for none.

    Attributes:
        settings: Everything that the base's pictures follow from (`DriftEvaluator.settings`).
        checkpoint: What the checkpoint holds that the run goes on from.
        base: The base model's statistics; None if they are not known.
        photos: Features of the training photos; None if there are none.
        photo_base: The base's loss on the photos; None if it is not known.
        pooled: The base text encoder's embeddings of the prompts, shape (p, d); None if they are not known,
            or the text encoder is not trained.
    """

    def __init__(self, cache_dir: str | None) -> None:
        self.cache_dir = cache_dir
        self.settings: dict[str, Any] = {}
        self.checkpoint = DriftState()
        self.base: DriftBase | None = None
        self.photos: Features | None = None
        self.photo_base: PhotoBase | None = None
        self.pooled: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether pictures can be measured: their base and the photos are known."""
        return self.base is not None and self.photos is not None

    def take(self, trainer: Trainer, module: Any, evaluator: DriftEvaluator, base_is_rendered: bool) -> None:
        """At the start of a fit: take what its module and photos give, and look up the rest.

        Args:
            trainer: At step 0 the module is the base.
            module: The module that is trained.
            evaluator: What measures.
            base_is_rendered: Whether the seed grid renders step 0. A new fit then takes the base's statistics
                from these pictures (`take_base`).
        """
        photos, held_out = self._take_photos(trainer, module, evaluator)
        begins = trainer.global_step == 0
        context = trainer.strategy.precision_plugin.forward_context
        self.photo_base = None
        if photos:
            settings = photo_settings(self.settings, module.input_ids, photos, held_out)
            if begins:
                self.photo_base = evaluator.photos.base(settings, photos, held_out, module, context)
            else:
                self._find_photo_base(settings)
        if begins and getattr(module, "train_text_encoder", False):
            self.pooled = evaluator.pooled(module, context)
        if not (begins and base_is_rendered):
            self._find_base(evaluator)

    def take_from_checkpoint(
        self, trainer: Trainer, module: Any, evaluator: DriftEvaluator, step: int
    ) -> None:
        """In a ``validate`` run: the checkpoint's photos come first, and its base is the only one.

        Args:
            trainer: The Trainer.
            module: The module with the checkpoint's weights.
            evaluator: What measures.
            step: The checkpoint's; 0 for none.
        """
        self.photos = None
        with suppress(UserError):
            self.photos = self.checkpoint.photos()
        if self.photos is None:
            self._take_photos(trainer, module, evaluator)
        if step > 0:
            self._find_photo_base(photo_settings(self.settings, module.input_ids, []))
            self._find_base(evaluator)

    def find_known_base(self) -> bool:
        """Take a base whose pictures were all found on disk from the cache too, if that has it."""
        if self.cache_dir is not None:
            known = DriftBase.load(user_path(self.cache_dir, "clip_drift.cache_dir"), self.settings)
            # An earlier version took less; the pictures are at hand to take it again.
            self.base = known if known is not None and "texture" in known.energies else None
        return self.base is not None

    def take_base(
        self,
        evaluator: DriftEvaluator,
        pictures: Pictures,
        features: Features,
        module: Any,
        context: Context,
    ) -> None:
        """Take the base's statistics from its pictures, and keep them in the cache.

        Args:
            evaluator: What measures.
            pictures: The seed grid's pictures of step 0.
            features: Features of those that are measured.
            module: The untrained module.
            context: Makes the context of the networks' calls.
        """
        self.base = evaluator.base(self.settings, pictures, features, module, context)
        if self.cache_dir is not None:
            try:
                self.base.save(user_path(self.cache_dir, "clip_drift.cache_dir"))
            except OSError as error:
                notice(f"cannot keep the base's statistics in {self.cache_dir}: {error.strerror or error}")

    def state(self, evaluator: DriftEvaluator | None, zones: Mapping[int, str]) -> DriftState:
        """What the run's next checkpoint holds."""
        pooled = None
        if self.pooled is not None and evaluator is not None:
            pooled = evaluator.text_prompts, self.pooled
        return self.checkpoint.updated(self.base, self.photos, self.photo_base, pooled, zones)

    def _take_photos(
        self, trainer: Trainer, module: Any, evaluator: DriftEvaluator
    ) -> tuple[Sequence[Image.Image], Sequence[Image.Image]]:
        """The photos of the data, and their features; and those that are never trained on."""
        self.photos, reason = None, "the data offers none"
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        photos: Sequence[Image.Image] = []
        held_out: Sequence[Image.Image] = []
        try:
            photos, held_out = instance_photos(data), held_out_photos(data)
        except UserError as error:
            photos, reason = [], str(error)
        if photos:
            self.photos = evaluator.features(photos, module.device)
        else:
            notice(
                f"clip_drift: there are no photos to measure against ({reason}); the drift is not measured"
            )
        return photos, held_out

    def _find_photo_base(self, settings: Mapping[str, Any]) -> None:
        self.photo_base, reason = self.checkpoint.matching_photo_base(settings)
        if self.photo_base is None:
            notice(
                f"clip_drift: the base's loss on the photos is not known, because {reason}; the verdict is "
                "by the pictures alone"
            )

    def _find_base(self, evaluator: DriftEvaluator) -> None:
        self.base, reason = self.checkpoint.matching_base(self.settings, self.cache_dir)
        pooled = self.checkpoint.pooled(evaluator.text_prompts)
        self.pooled = self.pooled if pooled is None else pooled
        if self.base is None:
            notice(
                f"clip_drift: the base model's pictures are missing, because {reason}. The drift is not "
                "measured; let seed_grid.steps begin with 0, in this run from its start or once in another "
                "of this base"
            )
