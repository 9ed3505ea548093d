"""ClipDrift: where in the corridor a checkpoint is, at every milestone of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lightning_drift.common.errors import UserError, notice
from lightning_drift.drift.base import DriftBase, recall
from lightning_drift.drift.evaluator import DriftEvaluator
from lightning_drift.drift.log import Reading, describe_run, log_reading, log_scalars
from lightning_drift.drift.measures.features import Features
from lightning_drift.drift.measures.language_probe import relative
from lightning_drift.drift.measures.photo_loss import photo_loss
from lightning_drift.drift.photo_base import PhotoBase, photo_settings, recall_photos
from lightning_drift.drift.probes import find_probes, instance_photos
from lightning_drift.drift.verdict import ZONES, Thresholds
from lightning_drift.fit.checkpointing import PATTERN, StepCheckpoint
from lightning_drift.fit.milestones import Milestones
from lightning_drift.fit.runs import run_of
from lightning_drift.fit.seed_grid import SeedGrid

DEFAULT_THRESHOLDS = Thresholds()
DREAMING = ZONES.index("dreaming")


class ClipDrift(Callback):
    """Measures the seed grid's pictures against the base model's and says where in the corridor they are.

    Nothing is rendered twice: it reads the pictures that the seed grid made, prompt by prompt and seed by
    seed, with a frozen CLIP that is never the text encoder that is trained, and asks the denoiser, in at most
    40 UNet forwards, whether it has become better at the photos. A verdict (under-drifted, dreaming,
    forgetting, cooked or broken) goes to the terminal, to TensorBoard with every measure and its 90 %
    interval, and to ``drift/step=00800.json`` in the run folder. The base's statistics are kept in the
    checkpoints, so that a resumed run compares with the same base. Training is not changed by a bit.

    Args:
        clip: The CLIP that measures: a hub id, a local folder, or ``pocket`` for the one that comes with the
            package and knows the pocket's world only; null for the measures that need none, and no verdict.
        steps: Optimizer steps to measure at, of those that the seed grid renders; null for all of them, empty
            for none.
        dream: The seed grid's group with the artwork's prompts; null for none.
        language: The seed grid's group with the language prompts, about eight short ones without the
            identifier, spread over things, colours, hours and styles; null for none.
        language_probe: Also ask the denoiser at each milestone what the language prompts mean to it, in at
            most 40 UNet forwards.
        text_every_n_steps: How often to log how far the trained text encoder has moved; 0 only at milestones.
        thresholds: Where the zones end.
        stop_when: End the fit at this zone or beyond: dreaming, forgetting, cooked or broken. The last
            dreaming checkpoint is then always saved and never deleted. Null goes on whatever the verdict.
        cache_dir: Folder where the base model's statistics are kept between runs; null for none.
    """

    def __init__(
        self,
        clip: str | None = "openai/clip-vit-large-patch14",
        steps: str | int | list[int] | None = None,
        dream: str | None = "dream",
        language: str | None = "language",
        language_probe: bool = True,
        text_every_n_steps: int = 50,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        stop_when: str | None = None,
        cache_dir: str | None = "tb_logs/.drift",
    ) -> None:
        if stop_when is not None and stop_when not in ZONES[DREAMING:]:
            zones = ", ".join(ZONES[DREAMING:])
            raise UserError(
                f"{stop_when!r} is not a zone to stop at; give one of {zones}", "clip_drift.stop_when"
            )
        if text_every_n_steps < 0:
            raise UserError(
                f"{text_every_n_steps} is no number of steps; give 0 or more", "clip_drift.text_every_n_steps"
            )
        self.clip = clip
        self.steps = None if steps is None else Milestones(steps, "clip_drift.steps").steps
        self.dream = dream
        self.language = language
        self.language_probe = language_probe
        self.text_every_n_steps = text_every_n_steps
        self.thresholds = thresholds
        self.stop_when = stop_when
        self.cache_dir = cache_dir
        #: The newest milestone's reading, on the first rank.
        self.reading: Reading | None = None
        self._milestones = Milestones("", "clip_drift.steps")
        self._folder = Path()
        self._gauge: DriftEvaluator | None = None
        self._settings: dict[str, Any] = {}
        self._base: DriftBase | None = None
        self._photos: Features | None = None
        self._photo_base: PhotoBase | None = None
        self._text: Tensor | None = None  # the base text encoder's embeddings of the prompts
        self._kept: dict[str, Any] = {}  # what a checkpoint held
        self._zones: dict[str, str] = {}  # verdicts by step

    # -- when -------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place right after the seed grid, wherever the configuration has put it."""
        callbacks: list[Callback] = [c for c in trainer.callbacks if c is not self]  # type: ignore[attr-defined]
        grid = _find(trainer, SeedGrid)
        place = 0 if grid is None else callbacks.index(grid) + 1
        # A new list: the old one is being gone through.
        trainer.callbacks = [*callbacks[:place], self, *callbacks[place:]]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the probe pictures and the CLIP, and say early what is missing."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all ranks
        self._prepare(trainer, pl_module)
        if self.stop_when is not None:
            if _find(trainer, StepCheckpoint) is None:
                notice(
                    "clip_drift.stop_when: there is no StepCheckpoint to keep the last dreaming checkpoint"
                )
            self._require_last_dreaming(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the base model's measures, or those that the checkpoint or the cache holds."""
        self._milestones.begin(trainer)
        if self._gauge is None:
            return
        goes_on = trainer.ckpt_path and run_of(Path(str(trainer.ckpt_path)).resolve())
        if goes_on != self._folder.resolve():
            describe_run(trainer, self._description(trainer, pl_module))
        photos = self._look_at_photos(trainer, pl_module)
        self._photo_base = self._base_on_photos(trainer, pl_module, photos)
        grid = _find(trainer, SeedGrid)
        if trainer.global_step > 0:
            self._recall()
        elif _text_trained(pl_module):
            self._text = self._gauge.pooled(pl_module, trainer.strategy.precision_plugin.forward_context)
        if trainer.global_step == 0 and grid is not None and grid.step == 0:
            self._measure(trainer, pl_module, grid, 0)
        elif trainer.global_step == 0:
            self._recall()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where a milestone is due, and stop there if asked to."""
        step = self._milestones.new_step(trainer, batch_idx)
        if step is None:
            return
        due, every, grid = step in self._milestones.steps, self.text_every_n_steps, _find(trainer, SeedGrid)
        measured = False
        if due and grid is not None and grid.step == step:  # the first rank alone has pictures
            measured = self._measure(trainer, pl_module, grid, step)
        if not measured and every and step % every == 0:
            text = self._text_measures(trainer, pl_module)
            log_scalars(trainer, step, {f"drift/{name}": value for name, value in text.items()})
        if due and self.stop_when is not None:
            self._stop(trainer, step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In a ``validate`` run, measure against the checkpoint's base; no event file is opened."""
        grid = _find(trainer, SeedGrid)
        if trainer.state.fn != "validate" or grid is None or grid.step < 0:
            return
        self._prepare(trainer, pl_module)
        if self._gauge is not None:
            self._look_at_photos(trainer, pl_module)
            if grid.step > 0:
                self._photo_base = self._base_on_photos(trainer, pl_module, [])
                self._recall()
            self._measure(trainer, pl_module, grid, grid.step)

    # -- what -------------------------------------------------------------------------------------------

    def _prepare(self, trainer: Trainer, module: Any) -> None:
        """Find when and what is measured; there is no gauge where nothing is, and on all ranks but one."""
        self._gauge = None
        grid = _find(trainer, SeedGrid)
        rendered = grid.milestones.steps if grid is not None and grid.groups else []
        self._milestones.steps = rendered if self.steps is None else [s for s in self.steps if s in rendered]
        if grid is None or self.steps == [] or not trainer.is_global_zero:
            return
        if not grid.groups or not (rendered or trainer.state.fn == "validate"):
            return
        if missing := [step for step in self.steps or [] if step not in rendered]:
            named = ", ".join(map(str, missing))
            notice(f"clip_drift.steps: nothing is measured at {named}, which is not in seed_grid.steps")
        probes = find_probes(grid.groups, self.dream, self.language, getattr(module, "instance_prompt", ""))
        for remark in probes.remarks:
            notice(remark)
        if not probes.keys:
            notice("clip_drift: none of the seed grid's pictures is a probe; the drift is not measured")
            return
        self._gauge = DriftEvaluator(probes, self.clip, self.thresholds, self.language_probe)
        if self._gauge.unavailable:
            notice(f"clip_drift: verdict not available: {self._gauge.unavailable}")
        self._settings = self._gauge.settings(module, grid, str(trainer.precision))

    def _look_at_photos(self, trainer: Trainer, module: Any) -> list[Image.Image]:
        """Features of the training photos, and the photos; in ``validate`` the checkpoint's come first."""
        assert self._gauge is not None
        self._photos = None
        if trainer.state.fn == "validate" and "photos" in self._kept:
            with suppress(UserError):
                self._photos = Features.from_tensors(self._kept["photos"])
                return []
        why = "the data offers none"
        try:
            photos = instance_photos(trainer.datamodule)  # type: ignore[attr-defined]
        except UserError as error:
            photos, why = [], str(error)
        if photos:
            self._photos = self._features(photos, module)
        else:
            notice(f"clip_drift: there are no photos to measure against ({why}); the drift is not measured")
        return photos

    def _base_on_photos(
        self, trainer: Trainer, module: Any, photos: Sequence[Image.Image]
    ) -> PhotoBase | None:
        """The base's loss on the photos: taken before the first step, else the checkpoint's.

        Args:
            trainer: In ``fit`` at step 0 the module is the base.
            module: The module that is trained.
            photos: The training photos; none in a ``validate`` run, which takes the checkpoint's.
        """
        assert self._gauge is not None
        fitting = trainer.state.fn == "fit"
        if fitting and not photos:
            return None
        wanted = photo_settings(self._settings, module.input_ids, photos)
        if fitting and trainer.global_step == 0:
            context = trainer.strategy.precision_plugin.forward_context
            return self._gauge.photo_base(wanted, photos, module, context)
        base, why = recall_photos(self._kept.get("photo_base"), wanted)
        if base is None:
            notice(
                f"clip_drift: the base's loss on the photos is not known, for {why}; the verdict is by the "
                "pictures alone"
            )
        return base

    def _features(self, images: Sequence[Image.Image], module: Any) -> Features:
        """Features of pictures; a CLIP with damaged weights is done without from then on."""
        assert self._gauge is not None
        try:
            return self._gauge.features(images, module.device)
        except UserError as error:
            notice(str(error))
            self._gauge.clip, self._gauge.unavailable = None, str(error)
            return self._gauge.features(images, module.device)

    def _recall(self) -> None:
        """Take the base from the checkpoint's state, else from the cache."""
        assert self._gauge is not None
        self._base, why = recall(self._kept.get("base"), self._settings, self.cache_dir)
        text = self._kept.get("text")
        if text and text["prompts"] == self._gauge.text_prompts:
            self._text = text["pooled"]
        if self._base is None:
            notice(
                f"clip_drift: the base model's pictures are missing, for {why}. The drift is not measured; "
                "let seed_grid.steps begin with 0, in this run from its start or once in another of this base"
            )

    def _measure(self, trainer: Trainer, module: Any, grid: SeedGrid, step: int) -> bool:
        """A reading of the seed grid's newest pictures, to everywhere; false if there is none."""
        gauge, context = self._gauge, trainer.strategy.precision_plugin.forward_context
        if gauge is None or self._photos is None or (step > 0 and self._base is None):
            return False
        features = self._features([grid.images[key] for key in gauge.probes.keys], module)
        if step == 0:
            self._base = gauge.base(self._settings, grid.images, features, module, context)
            self._keep(self._base)
        if self._base is None or (step not in self._milestones.steps and trainer.state.fn == "fit"):
            return False
        own = self._base.energies  # at step 0 just taken
        probed = gauge.language(self._base, module, context) if step else relative(own, own)
        explaining = self._text_measures(trainer, module) | probed
        weights = module.weight_changes() if hasattr(module, "weight_changes") else {}
        loss = None
        if (known := self._photo_base) is not None:
            errors = known.errors
            loss = gauge.photo_loss(known, module, context) if step else photo_loss(errors, errors)
        first = self.reading is None
        self.reading = reading = gauge.read(
            step, features, self._base, self._photos, explaining, weights, loss
        )
        tqdm.write(reading.line)
        for doubt in reading.doubts if first else ():
            tqdm.write(f"Read it with care: {doubt}.")
        self._write(trainer, reading)
        return True

    def _text_measures(self, trainer: Trainer, module: Any) -> dict[str, float]:
        if self._gauge is None or self._text is None or not _text_trained(module):
            return {}
        return self._gauge.text(self._text, module, trainer.strategy.precision_plugin.forward_context)

    def _keep(self, base: DriftBase) -> None:
        if self.cache_dir is not None:
            try:
                base.save(Path(self.cache_dir))
            except OSError as error:
                notice(f"cannot keep the base's statistics in {self.cache_dir}: {error.strerror or error}")

    def _write(self, trainer: Trainer, reading: Reading) -> None:
        """To the run folder and to TensorBoard; of a ``validate`` run to its own folder only."""
        name = f"step={reading.step:05d}"
        if trainer.state.fn == "validate":
            path = Path(trainer.default_root_dir) / "validate" / name / "drift.json"
        else:
            path = self._folder / "drift" / f"{name}.json"
            log_reading(trainer, reading)
            if reading.verdict is not None:
                self._zones[str(reading.step)] = reading.verdict.zone
        try:
            reading.save(path)
        except OSError as error:
            notice(f"cannot write {path}: {error.strerror or error}; the run goes on")

    # -- stopping ---------------------------------------------------------------------------------------

    def _stop(self, trainer: Trainer, step: int) -> None:
        """End the fit if its zone asks for it; keep what dreams. All ranks do the same."""
        zone = trainer.strategy.broadcast(self._zones.get(str(step)))
        if zone is None:
            return
        self._zones[str(step)] = zone
        kept = self._require_last_dreaming(trainer)
        if ZONES.index(zone) >= ZONES.index(str(self.stop_when)):
            trainer.should_stop = True
            where = f"the last dreaming checkpoint is {kept}" if kept else "no milestone before was dreaming"
            notice(f"the fit ends at step {step}, for it is {zone} (clip_drift.stop_when); {where}")

    def _require_last_dreaming(self, trainer: Trainer) -> Path | None:
        """Have the last dreaming checkpoint kept; its file, if any milestone dreamt."""
        dreaming = [int(step) for step, zone in self._zones.items() if zone == "dreaming"]
        checkpoint = _find(trainer, StepCheckpoint)
        if not dreaming or checkpoint is None:
            return None
        checkpoint.require(max(dreaming))
        return checkpoint.folder(trainer) / PATTERN.format(step=max(dreaming))

    # -- checkpoints ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The base's statistics, the verdicts so far and the thresholds: tensors and plain values."""
        state = {**self._kept, "thresholds": asdict(self.thresholds)}
        if self._base is not None:
            state["base"] = self._base.state()
        if self._photos is not None:
            state["photos"] = self._photos.tensors()
            state.pop("photo_base", None)  # of other photos, if it is not this run's
        if self._photo_base is not None:
            state["photo_base"] = self._photo_base.state()
        if self._text is not None and self._gauge is not None:
            state["text"] = {"prompts": self._gauge.text_prompts, "pooled": self._text}
        if self._zones:
            state["zones"] = dict(self._zones)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what a checkpoint holds; Lightning hands over a copy."""
        self._kept = dict(state_dict)
        self._zones = dict(state_dict.get("zones", {}))

    def _description(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        """This run in plain values, for the table of runs."""
        recipe = module.recipe() if hasattr(module, "recipe") else {}
        return {
            **recipe,
            "max_steps": trainer.max_steps,
            "pipeline": getattr(module, "pipeline", ""),
            "instance_dir": getattr(trainer.datamodule, "instance_dir", ""),  # type: ignore[attr-defined]
            "clip": self.clip,
        }


T = TypeVar("T", bound=Callback)


def _find(trainer: Trainer, kind: type[T]) -> T | None:
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def _text_trained(module: Any) -> bool:
    return bool(getattr(module, "train_text_encoder", False))
