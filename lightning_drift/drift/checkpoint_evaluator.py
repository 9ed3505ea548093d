"""CheckpointEvaluator: measures weights as a fit measured its milestones.

A checkpoint of a fit with ClipDrift holds the probe pictures' prompts, seeds and settings, the features of
the base's pictures and of the photos, and the photos' latents. Only the pictures of the weights that are
measured have to be rendered.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from tqdm import tqdm

from lightning_drift.common.errors import UserError
from lightning_drift.common.halving import Batch
from lightning_drift.common.out_of_memory import GPU, Exhausted, Remedy, during
from lightning_drift.drift.base import DriftBase
from lightning_drift.drift.default_clip import default_clip
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.frozen_clip import FrozenClip, FrozenEye
from lightning_drift.drift.measures.intervals import Interval
from lightning_drift.drift.measures.photo_loss import photo_errors, photo_loss
from lightning_drift.drift.metric import DriftMetric, Role
from lightning_drift.drift.photo_base import PhotoBase
from lightning_drift.drift.state import DriftState
from lightning_drift.drift.verdict import Thresholds
from lightning_drift.fit.grid_sampling import GridSampler, Images
from lightning_drift.stable_diffusion.interpolation import load_weights_
from lightning_drift.stable_diffusion.loading import StableDiffusion, load_opened
from lightning_drift.stable_diffusion.opened_pipeline import TRAINED, OpenedPipeline
from lightning_drift.stable_diffusion.sampling import Sampling
from lightning_drift.weights.files import Weights

SEEDS = 4
"""Seeds of each prompt that are rendered at most."""

_ADVICE = "fit with a seed grid at step 0 and clip_drift"


class NoReferences(UserError):
    """A model comes without the statistics of ClipDrift that its drift would be measured against.

    Args:
        message: As of every `UserError`.
        advice: What to do about it in another fit; empty if the model is not of a fit.

    Attributes:
        advice: Likewise.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class CheckpointEvaluator:
    """Renders the probe pictures of a fit with any weights of its model, and measures them.

    Computes on a CUDA device if there is one.

    Args:
        opened: A checkpoint of a fit with ClipDrift.
        base: Its base.
        clip: The CLIP that ClipDrift measured with; None for the pocket's own, or ViT-L/14.

    Attributes:
        thresholds: Where the zones of the fit's verdicts end.

    Raises:
        NoReferences: The model is no checkpoint, or holds no statistics of ClipDrift.
        UserError: The CLIP is another or not there.
    """

    def __init__(self, opened: OpenedPipeline, base: OpenedPipeline, clip: str | None) -> None:
        self.base, self.photos, self.photo_base, self.thresholds = _references(opened)
        self.clip = FrozenClip.load(clip or default_clip(base), option="--clip")
        if self.clip.hash != self.base.clip_hash:
            raise UserError(
                f"{self.clip.name} is not the CLIP that this checkpoint was measured with during its "
                "fit; name that one (its clip_drift.clip)",
                "--clip",
            )
        self.eye = _eye(opened, self.base)
        self.keys, self.roles, self.index = probe_pictures(self.base)
        self._opened = opened
        self._model: StableDiffusion | None = None
        self._sampler = _sampler(self.base, self.keys, self.index)
        self._levels = Batch(things="noise levels of a photo")

    def measure(
        self, weights: Mapping[str, Weights], title: str, made: Callable[[Images], object] = bool
    ) -> dict[str, Interval]:
        """All measures of weights, by part, that fit the checkpoint's model.

        The loss on the photos is among them where the fit took it.

        Args:
            weights: The weights of UNet and text encoder.
            title: What the progress bar says.
            made: Called with the pictures, by prompt and seed, as they are made.
        """
        with during(f"measuring the pictures of {title}", self._less):
            return self._measure(weights, title, made)

    @staticmethod
    def _less(full: Exhausted) -> Remedy | None:
        if full.memory != GPU:
            return None
        return Remedy("let the CPU do it, with CUDA_VISIBLE_DEVICES= before the command")

    def _measure(
        self, weights: Mapping[str, Weights], title: str, made: Callable[[Images], object]
    ) -> dict[str, Interval]:
        model = self._loaded()
        load_weights_({part: getattr(model, part) for part in TRAINED}, weights)
        features = Features.of(self._pictures(model, title, made), self.clip, self.eye)
        pictures, texts = self.base.pictures[self.index], self.base.texts
        metric = DriftMetric(self.keys, self.roles, pictures, self.photos, texts, sync=False)
        metric.update(range(len(self.keys)), features)
        measures = metric.compute()
        if (known := self.photo_base) is not None:
            scheduler = DDPMScheduler.from_config(model.scheduler_config)
            errors = photo_errors(model, scheduler, known.latents, known.input_ids, batch=self._levels)
            measures["photo_loss"] = photo_loss(known.errors, errors)
        return measures

    def _loaded(self) -> StableDiffusion:
        if self._model is None:
            model = load_opened(self._opened)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            for module in (model.unet, model.text_encoder):
                torch.nn.Module.to(module, device, torch.float16 if device == "cuda" else torch.float32)
            model.vae.to(device)
            self.clip.to(device)
            if self.eye is not None:
                self.eye.to(device)
            self._model = model
        return self._model

    def _pictures(self, model: StableDiffusion, title: str, made: Callable[[Images], object]) -> list[Any]:
        """The probe pictures, made with the settings that the base's were made with."""
        with tqdm(total=len(self.keys), desc=title, unit="img", leave=False) as bar:

            def count(some: Images) -> None:
                bar.update(len(some))
                made(some)

            images = self._sampler.sample(model, self.keys, nullcontext, count)
        return [images[key] for key in self.keys]


def _sampler(base: DriftBase, keys: list[tuple[str, int]], index: list[int]) -> GridSampler:
    """What samples the probe pictures as the base's were sampled: groups may have steps of their own."""
    fields = Sampling().settings()
    common = Sampling(**{name: base.settings[f"seed_grid.{name}"] for name in fields})
    pictures = {}
    for key, place in zip(keys, index, strict=True):
        steps = base.settings["seed_grid.groups"][place][3:]
        pictures[key] = replace(common, num_inference_steps=steps[0]) if steps else common
    return GridSampler(pictures, common.batch_size, option="")


def _references(opened: OpenedPipeline) -> tuple[DriftBase, Features, PhotoBase | None, Thresholds]:
    """From a checkpoint: the base, the photos, the base's loss on them if the fit took it, the thresholds."""
    if not opened.source.endswith(".ckpt") or opened.step is None:
        raise NoReferences(f"{opened.source} is not a checkpoint of a fit")
    state = DriftState.from_checkpoint(opened.source)
    try:
        base, photos, photo_base = state.base(), state.photos(), state.photo_base()
        thresholds = state.thresholds()
    except UserError as error:
        raise NoReferences(
            f"what {opened.source} holds of ClipDrift cannot be used ({error})", _ADVICE
        ) from error
    if base is None or photos is None:
        raise NoReferences(f"{opened.source} holds nothing of ClipDrift to measure against", _ADVICE)
    if base.texts is None or base.pictures.clip is None or photos.clip is None:
        raise NoReferences(f"{opened.source} was measured without a CLIP", _ADVICE)
    return base, photos, photo_base, thresholds


def _eye(opened: OpenedPipeline, base: DriftBase) -> FrozenEye | None:
    """The network by which the fit compared pictures; None where the CLIP did.

    Raises:
        UserError: It is not there any more, or another.
    """
    if base.pictures.image is None:
        return None
    name, option = DriftState.from_checkpoint(opened.source).image_model(), "clip_drift.image_model"
    eye = FrozenEye.load(name, option=option) if name is not None else None
    if eye is None or eye.hash != base.image_hash:
        raise UserError(
            f"{name} is not the network by which pictures were compared during the fit of {opened.source}",
            option,
        )
    return eye


def probe_pictures(base: DriftBase) -> tuple[list[tuple[str, int]], dict[str, Role], list[int]]:
    """The first few seeds of each prompt, the prompts' roles, and where the pictures are in the base's."""
    keys: list[tuple[str, int]] = []
    roles: dict[str, Role] = {}
    index = []
    for place, (prompt, seed, role, *_) in enumerate(base.settings["seed_grid.groups"]):
        roles[prompt] = role
        if sum(key[0] == prompt for key in keys) < SEEDS:
            keys.append((prompt, seed))
            index.append(place)
    return keys, roles, index
