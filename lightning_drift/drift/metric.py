"""DriftMetric: all measures of a checkpoint against the base, from pictures' features in any order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_drift.common.errors import UserError
from lightning_drift.drift.measures import by_clip, colour, composition, copying
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.intervals import DRAWS, Interval, SeedDraws

Role = Literal["dream", "language"]

WITHOUT_CLIP = ("tilt", "colour", "delta_e", "palette_pull", "copy", "likeness")
MEASURES = (
    "language",
    "adherence",
    "retrieval",
    "drift",
    "drift_prompt",
    "tilt",
    "spread",
    "pull",
    "aim",
    "coherence",
    "colour",
    "delta_e",
    "palette_pull",
    "copy",
    "likeness",
    "diversity",
    "vendi",
    "clip_t",
)
_SIGNED = {"language", "adherence", "retrieval", "pull", "aim", "palette_pull", "likeness", "clip_t"}
_AT_LEAST = dict.fromkeys(set(MEASURES) - _SIGNED, 0.0) | {"aim": -1.0}
_AT_MOST = {"aim": 1.0, "coherence": 1.0, "copy": 1.0, "clip_t": 1.0}


class DriftMetric(Metric):
    """Measures how far a checkpoint's pictures are from the base's, prompt by prompt and seed by seed.

    Pictures are named by their index in ``keys``. Which prompts enter a measure follows from their role:

    - language prompts (short, without the identifier, spread over things, hours and styles): language,
      adherence, retrieval, spread, vendi and clip_t. A dream prompt is made of adjectives, by which a picture
      is hardly recognised.
    - all prompts, dream prompts too: drift, drift_prompt, tilt, pull, aim, coherence, colour, delta_e,
      palette_pull, copy, likeness and diversity. Each prompt weighs the same, however many seeds it has.

    No prompt may contain the identifier, which asks for the photos. Diversity explains and decides nothing.
    Where embeddings are used, pictures are compared with prompts by the CLIP, and with pictures by
    ``Features.seen``: a network of pictures where there is one, else the CLIP. Without embeddings only
    ``WITHOUT_CLIP`` is measured.

    Every rank may bring any part of the pictures, in any order and batches, one picture even twice; the
    numbers are the same to the bit.

    Args:
        keys: The (prompt, seed) of each picture.
        roles: Role of each prompt of ``keys``, in the order of ``texts``.
        base: Features of the base's pictures, in the order of ``keys``.
        photos: Features of the training photos.
        texts: CLIP embeddings of the prompts, shape (number of prompts, d); None without CLIP.
        draws: Bootstrap draws over seeds.
        seed: Seed of these draws.
        sync: Whether ``compute`` gathers what all ranks brought, so that every rank must call it (one without
            pictures after an ``update`` with none); False where one process has all pictures.

    Raises:
        UserError: A prompt has fewer than two seeds, there are fewer than two language prompts, or no photo.
        ValueError: The arguments' lengths do not fit, or only some of them have embeddings.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    counts: Tensor
    layout: Tensor
    lab: Tensor
    thumbnail: Tensor
    clip: Tensor
    image: Tensor

    def __init__(
        self,
        keys: Sequence[tuple[str, int]],
        roles: Mapping[str, Role],
        base: Features,
        photos: Features,
        texts: Tensor | None = None,
        draws: int = DRAWS,
        seed: int = 0,
        sync: bool = True,
    ) -> None:
        super().__init__(sync_on_compute=sync)
        self.language_prompts = [prompt for prompt, role in roles.items() if role == "language"]
        if set(roles) != {prompt for prompt, _ in keys}:
            raise ValueError("roles and keys name different prompts")
        if len(base) != len(keys):
            raise ValueError(f"{len(base)} pictures of the base for {len(keys)} keys")
        embedded = {base.clip is not None, photos.clip is not None, texts is not None}
        if len(embedded) > 1:
            raise ValueError("base, photos and texts: all of them have CLIP embeddings, or none")
        if (base.image is None) != (photos.image is None):
            raise ValueError("base and photos: both have embeddings of pictures alone, or none")
        if texts is not None and len(texts) != len(roles):
            raise ValueError(f"{len(texts)} text embeddings for {len(roles)} prompts")
        if len(photos) == 0:
            raise UserError("there are no photos to measure against", "clip_drift")
        for prompt in roles:
            if (count := sum(key[0] == prompt for key in keys)) < 2:
                raise UserError(
                    f"the prompt {prompt!r} has {count} seed; give two or more, four to judge by",
                    "clip_drift",
                )
        if texts is not None and len(self.language_prompts) < 2:
            raise UserError(
                f"{len(self.language_prompts)} language prompt cannot show whether prompts still matter; "
                "give two or more, eight to judge by",
                "clip_drift",
            )
        self.keys, self.base, self.photos = list(keys), base, photos
        self.draws = SeedDraws(keys, draws, seed)
        order = list(roles)
        self.texts = None if texts is None else texts[[order.index(p) for p in self.language_prompts]].cpu()
        # Sums over ranks of slots that one rank fills: the same numbers for any split, and a rank that has
        # no picture takes part all the same.
        self.add_state("counts", torch.zeros(len(keys)), dist_reduce_fx="sum")
        for name, tensor in base.tensors().items():
            self.add_state(name, torch.zeros_like(tensor), dist_reduce_fx="sum")

    def update(self, indices: Sequence[int] | Tensor, features: Features) -> None:
        """Take in pictures of the checkpoint.

        Args:
            indices: Index in ``keys`` of each picture.
            features: Their features; with CLIP embeddings exactly when the base has them.
        """
        index = torch.as_tensor(indices, dtype=torch.long, device=self.counts.device)
        if len(index) != len(features):
            raise ValueError(f"{len(index)} indices for {len(features)} pictures")
        tensors = features.tensors()
        if set(tensors) != set(self.base.tensors()):
            raise ValueError("the pictures and the base's pictures have different features")
        self.counts[index] = 1.0
        for name, tensor in tensors.items():
            getattr(self, name)[index] = tensor.to(self.counts.device)

    def compute(self) -> dict[str, Interval]:
        """Every measure with its interval, in the order of ``MEASURES``.

        Raises:
            ValueError: Pictures of some keys have not been brought.
        """
        counts = self.counts.cpu()
        if not counts.all():
            missing = [self.keys[i] for i in torch.nonzero(counts == 0)[:, 0].tolist()]
            raise ValueError(f"{len(missing)} pictures are missing, the first is {missing[0]}")
        # Two ranks may have brought the same picture.
        now = Features.from_tensors(
            {
                name: getattr(self, name).cpu() / counts.view(-1, *[1] * (getattr(self, name).ndim - 1))
                for name in self.base.tensors()
            }
        )
        measures = {name: self.draws.interval(*self._bounded(name, value)) for name, value in self._all(now)}
        if now.clip is not None:
            part, values = self._language(now)
            measures |= {name: part.interval(*self._bounded(name, value)) for name, value in values.items()}
        return {name: measures[name] for name in MEASURES if name in measures}

    def doubts(self) -> list[str]:
        """Sentences on why the verdict should be read with care; empty when all is well."""
        sentences = []
        if self.texts is not None and self.base.clip is not None:
            part, index = self.draws.only(self.language_prompts)
            clip, chance = self.base.clip[index], 1 / len(self.language_prompts)
            right = float(by_clip.accuracy(part, clip, self.texts)[0])
            if right < (1 + chance) / 2 or float(by_clip.margin(part, clip, self.texts)[0]) <= 0:
                sentences.append(
                    f"this CLIP recognises only {right:.0%} of the base model's own pictures by their prompt "
                    f"(guessing gives {chance:.0%}), so it can hardly tell whether language is lost"
                )
        fewest = min(len(members) for members in self.draws.members)
        if fewest < 4:
            sentences.append(f"there are only {fewest} seeds of a prompt; four or more make it steadier")
        return sentences

    @staticmethod
    def _bounded(name: str, values: Tensor) -> tuple[Tensor, float | None, float | None]:
        return values, _AT_LEAST.get(name), _AT_MOST.get(name)

    def _all(self, now: Features) -> list[tuple[str, Tensor]]:
        """Measures over all prompts."""
        draws, base, photos = self.draws, self.base, self.photos
        measures = [
            ("tilt", composition.tilt(draws, base.layout, now.layout)),
            ("colour", colour.colour(draws, base.lab, now.lab)),
            ("delta_e", colour.delta_e(draws, base.lab, now.lab)),
            ("palette_pull", colour.palette_pull(draws, base.lab, now.lab, photos.lab)),
            ("copy", copying.copy(draws, base.thumbnail, now.thumbnail, photos.thumbnail)),
            ("likeness", copying.likeness(draws, base.thumbnail, now.thumbnail, photos.thumbnail)),
        ]
        if base.seen is None or now.seen is None or photos.seen is None:
            return measures
        by_photos: list[Callable[[SeedDraws, Tensor, Tensor, Tensor], Tensor]] = [by_clip.pull, by_clip.aim]
        by_base: list[Callable[[SeedDraws, Tensor, Tensor], Tensor]] = [
            by_clip.drift,
            by_clip.drift_prompt,
            by_clip.coherence,
            by_clip.diversity,
        ]
        measures += [(f.__name__, f(draws, base.seen, now.seen, photos.seen)) for f in by_photos]
        return measures + [(f.__name__, f(draws, base.seen, now.seen)) for f in by_base]

    def _language(self, now: Features) -> tuple[SeedDraws, dict[str, Tensor]]:
        """Measures over the language prompts."""
        assert self.base.clip is not None
        assert now.clip is not None
        assert self.base.seen is not None
        assert now.seen is not None
        assert self.texts is not None
        part, index = self.draws.only(self.language_prompts)
        # `only` keeps the order of keys, which need not be that of the roles.
        texts = self.texts[[self.language_prompts.index(prompt) for prompt in part.prompts]]
        before, after = self.base.clip[index], now.clip[index]
        seen = self.base.seen[index], now.seen[index]
        adherence = by_clip.adherence(part, before, after, texts)
        retrieval = by_clip.retrieval(part, before, after, texts)
        return part, {
            "language": by_clip.language(adherence, retrieval),
            "adherence": adherence,
            "retrieval": retrieval,
            "spread": by_clip.spread(part, *seen),
            "vendi": by_clip.vendi(part, *seen),
            "clip_t": by_clip.clip_t(part, after, texts),
        }
