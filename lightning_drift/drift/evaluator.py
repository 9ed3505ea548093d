"""DriftEvaluator: makes a reading from pictures and a model. When that happens is not its concern."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.halving import Batch
from lightning_drift.common.modules import eval_mode, weights_hash
from lightning_drift.common.out_of_memory import GPU, exhausted, forget, give_back
from lightning_drift.drift.base import FORMAT, DriftBase
from lightning_drift.drift.log import Reading
from lightning_drift.drift.measures import language_probe, text_similarity
from lightning_drift.drift.measures.departure import departure
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.frozen_clip import FrozenClip, FrozenEye
from lightning_drift.drift.measures.texture import texture
from lightning_drift.drift.measures.updates import updates
from lightning_drift.drift.metric import DriftMetric
from lightning_drift.drift.photo_evaluator import PhotoEvaluator, PhotoReading, encode
from lightning_drift.drift.probes import Probes
from lightning_drift.drift.verdict import Thresholds, judge, not_calibrated_for
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.stable_diffusion.sampling import NOISE_SCHEDULE

Pictures = Mapping[tuple[str, int], Image.Image]
T = TypeVar("T")
Context = Callable[[], AbstractContextManager[Any]]


class DriftEvaluator:
    """Measures a model and its pictures against the base.

    What embeds rests on the CPU and is on the model's device only while it embeds.

    Args:
        probes: The pictures that are measured.
        clip: What `FrozenClip.load` takes; None to measure without.
        thresholds: Where zones end.
        with_probe: Whether the language probe is taken.
        image_model: What `FrozenEye.load` takes, to compare pictures with pictures; None for the CLIP.
    """

    def __init__(
        self,
        probes: Probes,
        clip: str | None,
        thresholds: Thresholds,
        with_probe: bool,
        image_model: str | None = None,
    ) -> None:
        self.probes = probes
        self.thresholds = thresholds
        self.with_probe = with_probe and not probes.no_language
        self.clip: FrozenClip | None = None
        self.eye: FrozenEye | None = None
        self.blind = ""  # why the CLIP compares pictures, though a network of pictures was asked for
        self.unavailable = ""  # why there is no verdict
        self.refusal: UserError | None = None  # why what measures could not be loaded
        self.photos = PhotoEvaluator()
        self._asked = Batch(things="language prompts")
        if clip is None:
            self.unavailable = "no CLIP is given; name one in clip_drift.clip"
        elif probes.no_language:
            self.unavailable = probes.no_language
        else:
            try:
                self.clip = FrozenClip.load(clip, option="clip_drift.clip")
            except UserError as error:
                self.unavailable, self.refusal = f"no CLIP; {error}", error
        if image_model is not None:
            try:
                self.eye = FrozenEye.load(image_model, option="clip_drift.image_model")
            except UserError as error:
                self.blind, self.refusal = f"the CLIP compares pictures; {error}", self.refusal or error

    def settings(self, module: Any, grid: SeedGrid, precision: str) -> dict[str, Any]:
        """Everything that the base's pictures and embeddings follow from, by option.

        Args:
            module: The module that is trained, with its base still known by its files.
            grid: What renders the pictures.
            precision: The Trainer's.
        """
        schedule = {name: module.stable_diffusion.scheduler_config.get(name) for name in NOISE_SCHEDULE}
        return {
            "format": FORMAT,
            "model.pipeline": module.stable_diffusion.hash,
            "the autoencoder": weights_hash(module.stable_diffusion.vae),
            "the noise schedule": schedule,
            "seed_grid.groups": [self._probe_settings(key, grid) for key in self.probes.keys],
            **{f"seed_grid.{name}": value for name, value in grid.sampling.settings().items()},
            "clip_drift.clip": self.clip.hash if self.clip else None,
            "clip_drift.image_model": self.eye.hash if self.eye else None,
            "trainer.precision": precision,
            "device": module.device.type,
        }

    def _probe_settings(self, key: tuple[str, int], grid: SeedGrid) -> list[Any]:
        """Prompt, seed and role of a picture, and its steps where they are not the grid's."""
        steps = grid.pictures[key].num_inference_steps
        own = [] if steps == grid.sampling.num_inference_steps else [steps]
        return [*key, self.probes.roles[key[0]], *own]

    # -- features ---------------------------------------------------------------------------------------

    def features(self, images: Sequence[Image.Image], device: torch.device) -> Features:
        """Features of pictures, with embeddings by whatever there is to embed.

        A network with damaged weights is reported and done without from then on.
        """
        features = Features.of(images)
        for network in (self.clip, self.eye):
            if network is None:
                continue
            try:
                vectors = self._with(network, device, partial(network.embed_images, images))
            except UserError as error:
                notice(str(error))
                if network is self.eye:
                    self.eye, self.blind = None, f"the CLIP compares pictures; {error}"
                else:
                    self.clip, self.unavailable = None, str(error)
            else:
                features = replace(features, **{"image" if network is self.eye else "clip": vectors})
        return features

    def _with(self, network: FrozenEye, device: torch.device, work: Callable[[], T]) -> T:
        """Do work with a network on a device, or on the CPU if it has no room there."""
        try:
            network.to(device)
            return work()
        except Exception as error:
            full = exhausted(error)
            if full is None or full.memory != GPU:
                raise
            forget(error)
        finally:
            network.to("cpu")
        give_back()
        notice(f"{network.option}: {network.name} has no room on {device}; it measures on the CPU")
        return work()

    # -- the base ---------------------------------------------------------------------------------------

    def base(
        self, settings: dict[str, Any], pictures: Pictures, features: Features, module: Any, context: Context
    ) -> DriftBase:
        """What is known of the base model, from its pictures.

        Args:
            settings: See `settings`.
            pictures: The base's pictures.
            features: Their features, in the order of the probes' keys.
            module: The untrained module.
            context: Makes the context of the networks' calls.
        """
        texts = None
        if self.clip is not None:
            clip, prompts = self.clip, list(self.probes.roles)
            texts = self._with(clip, module.device, lambda: clip.embed_texts(prompts))
        energies = self._of_pictures(pictures)
        if not self.with_probe:
            return DriftBase(settings, features, texts, energies=energies)
        latents = encode(module, [pictures[key] for key in self._trial_keys()])
        asked, predictions = self._probe(module, latents, context)
        return DriftBase(settings, features, texts, latents, asked | energies, predictions)

    def _of_pictures(self, pictures: Pictures) -> dict[str, float]:
        """Texture and update norms of the probe pictures, these if they were not found on disk."""
        measured = [pictures[key] for key in self.probes.keys]
        seen = updates(measured)
        return {"texture": texture(measured)} | ({} if seen is None else {"updates": seen})

    def _trial_keys(self) -> list[tuple[str, int]]:
        prompts = self._probe_prompts()
        keys = []
        for trial in language_probe.trials(len(prompts)):
            own = [key for key in self.probes.keys if key[0] == prompts[trial.prompt]]
            keys.append(own[trial.picture % len(own)])
        return keys

    def _probe_prompts(self) -> list[str]:
        """The language prompts, as many as the probe can take."""
        return self.probes.language[: language_probe.FORWARDS - 1]

    def _probe(self, module: Any, latents: Tensor, context: Context) -> tuple[dict[str, float], Tensor]:
        """The probe's energies and the predictions that they are of, shape (trials, p, c, h, w)."""
        seen: list[Tensor] = []
        with eval_mode(module.unet, module.text_encoder):
            energies = language_probe.probe(
                module.stable_diffusion,
                module.scheduler,
                self._probe_prompts(),
                latents,
                context,
                self._asked,
                seen,
            )
        return energies, torch.stack(seen)

    def pooled(self, module: Any, context: Context) -> Tensor:
        """The text encoder's embeddings of the probe prompts, shape (p, d)."""
        with eval_mode(module.text_encoder), context():
            return text_similarity.pooled_embeddings(module.stable_diffusion, self.text_prompts)

    @property
    def text_prompts(self) -> list[str]:
        """The prompts that the text encoder is measured on."""
        return self.probes.language or list(self.probes.roles)

    # -- readings ---------------------------------------------------------------------------------------

    def text(self, base: Tensor, module: Any, context: Context) -> dict[str, float]:
        """How far the text encoder has moved, by tag.

        Args:
            base: The base's `pooled`.
            module: The module that is trained.
            context: Makes the context of the networks' calls.
        """
        now = self.pooled(module, context)
        measures = {"text": text_similarity.similarity(base, now)}
        structure = text_similarity.structure(base, now)
        return measures if structure is None else measures | {"text_structure": structure}

    def of_base(self, base: DriftBase) -> dict[str, float]:
        """What `explaining` gives for the base itself, without asking it again."""
        neutral = {} if base.predictions is None else {"departure_language": 0.0}
        return language_probe.relative(base.energies, base.energies) | neutral

    def explaining(
        self, base: DriftBase, pictures: Pictures, module: Any, context: Context
    ) -> dict[str, float]:
        """What prompts mean to the denoiser and how its pictures are made, against the base, by tag.

        What the base was not asked is left out: the probe, or the texture in what an earlier version kept.

        Args:
            base: The base.
            pictures: The checkpoint's.
            module: The module that is trained.
            context: Makes the context of the networks' calls.
        """
        energies: dict[str, float] = {}
        moved: dict[str, float] = {}
        if "texture" in base.energies:
            found = self._of_pictures(pictures)
            energies |= {name: value for name, value in found.items() if name in base.energies}
        if self.with_probe and base.latents is not None and len(base.latents) == len(self._trial_keys()):
            asked, predictions = self._probe(module, base.latents, context)
            energies |= asked
            if base.predictions is not None and base.predictions.shape == predictions.shape:
                moved = {"departure_language": departure(base.predictions, predictions)}
        return language_probe.relative(base.energies, energies) | moved

    def read(
        self,
        step: int,
        features: Features,
        base: DriftBase,
        photos: Features,
        explaining: Mapping[str, float],
        weights: Mapping[str, float],
        asked: PhotoReading | None = None,
    ) -> Reading:
        """A reading of pictures against the base's.

        Args:
            step: Optimizer steps.
            features: Of the checkpoint's pictures, in the order of the probes' keys.
            base: The base.
            photos: Features of the training photos.
            explaining: Measures without pictures, by tag.
            weights: Relative change of the weights by block.
            asked: What was asked about the photos; None if the base's answers are not known, and the pictures
                alone decide.
        """
        clip, unavailable = self.clip, self.unavailable
        if clip is not None and (base.clip_hash != clip.hash or photos.clip is None):
            clip = None
            unavailable = (
                "the base model was measured with another CLIP, or without one, when this run began; begin "
                "a new fit with this one, or name the former in clip_drift.clip"
            )
        if clip is None:
            base = base.without_clip()
            features, photos = replace(features, clip=None), replace(photos, clip=None)
        eye, doubts = self.eye, [self.blind] if self.blind else []
        if eye is not None and (base.image_hash != eye.hash or photos.image is None):
            eye = None
            doubts.append(
                "the base model's pictures were not taken with this clip_drift.image_model when this run "
                "began, so the CLIP compares pictures; begin a new fit to use it"
            )
        elif eye is None and base.pictures.image is not None and not self.blind:
            doubts.append(
                "when this run began, pictures were compared by a clip_drift.image_model, and now by the CLIP"
            )
        if eye is None:
            base = base.without_image()
            features, photos = replace(features, image=None), replace(photos, image=None)
        keys, roles = self.probes.keys, self.probes.roles
        names = [network.name for network in (clip, eye) if network is not None]
        uncalibrated = [not_calibrated_for(self.thresholds, name) for name in names] if clip else []
        doubts += [sentence for sentence in uncalibrated if sentence]
        metric = DriftMetric(keys, roles, base.pictures, photos, base.texts, sync=False)
        metric.update(range(len(keys)), features)
        measures = metric.compute()
        if asked is not None:
            measures["photo_loss"] = asked.loss
            measures |= {} if asked.held_out is None else {"held_out_loss": asked.held_out}
        return Reading(
            step=step,
            measures=measures,
            verdict=judge(measures, self.thresholds) if clip else None,
            unavailable=unavailable,
            explaining=explaining if asked is None else {**explaining, **asked.explaining},
            weights=weights,
            thresholds=self.thresholds,
            clip=clip.name if clip else None,
            image_model=eye.name if eye else None,
            doubts=[*doubts, *metric.doubts()],
        )
