"""ClipDrift: where in the corridor a checkpoint is, at every milestone of a fit."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from lightning_drift.common.errors import notice
from lightning_drift.common.numbers import whole
from lightning_drift.common.out_of_memory import Exhausted, Remedy, during
from lightning_drift.drift.default_clip import VIT_L
from lightning_drift.drift.evaluator import DriftEvaluator
from lightning_drift.drift.judges import Judges
from lightning_drift.drift.log import Reading, describe_run, log_reading, log_scalars
from lightning_drift.drift.measures.departure import SEEDS as FIRST_STEPS
from lightning_drift.drift.measures.language_probe import FORWARDS as PROBE_FORWARDS
from lightning_drift.drift.measures.language_probe import trials
from lightning_drift.drift.measures.noise_levels import NOISE_LEVELS
from lightning_drift.drift.measures.photo_loss import shown
from lightning_drift.drift.photo_evaluator import MOST_HELD_OUT
from lightning_drift.drift.probes import find_probes
from lightning_drift.drift.references import References
from lightning_drift.drift.state import DriftState
from lightning_drift.drift.stopping import StopRule
from lightning_drift.drift.verdict import Thresholds
from lightning_drift.fit.grid_listeners import GridPictures
from lightning_drift.fit.less_memory import more_room
from lightning_drift.fit.milestones import Milestones
from lightning_drift.fit.runs import run_of
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.forecast.rehearsal import Phase
from lightning_drift.stable_diffusion.sampling import Sampling
from lightning_drift.stable_diffusion.sampling_peaks import rehearse_step

DEFAULT_THRESHOLDS = Thresholds()


class ClipDrift(Callback):
    """Measures the seed grid's pictures against the base model's and says where in the corridor they are.

    Nothing is rendered twice: it listens to the seed grid, and reads its pictures, prompt by prompt and seed
    by seed, with a frozen CLIP that is never the text encoder that is trained. It asks the denoiser, in at
    most 40 UNet forwards, whether it has become better at the photos. A verdict (under-drifted, dreaming,
    forgetting, cooked or broken) goes to the terminal, to TensorBoard with every measure and its 90 %
    interval, and to ``drift/step=00800.json`` in the run folder. The base's statistics are kept in the
    checkpoints, so that a resumed run compares with the same base. Training is not changed by a bit.

    Args:
        clip: The CLIP or SigLIP that measures: a hub id, a local folder, or ``pocket`` for the one that comes
            with the package and knows the pocket's world only; null for the measures that need none, and no
            verdict.
        image_model: A DINOv2, by hub id or folder, that compares pictures with pictures in the CLIP's place;
            null for the CLIP.
        steps: Optimizer steps to measure at, of those that the seed grid renders; null for all of them, empty
            for none.
        dream: The seed grid's group with the artwork's prompts; null for none.
        language: The seed grid's group with the language prompts, about eight short ones without the
            identifier, spread over things, colours, hours and styles; null for none.
        language_probe: Also ask the denoiser at each milestone what the language prompts mean to it, in at
            most 40 UNet forwards.
        text_every_n_steps: How often to log how far the trained text encoder has moved; 0 only at milestones.
        loss_every_n_steps: How often to log the loss on the photos, in four UNet forwards; where photos are
            held out (``data.held_out``), the loss on these, and every second time on the others too. 0 only
            at milestones.
        thresholds: Where the zones end.
        stop_when: End the fit at this zone or beyond: dreaming, forgetting, cooked or broken. The last
            dreaming checkpoint is then always saved and never deleted. Null goes on whatever the verdict.
        cache_dir: Folder where the base model's statistics are kept between runs; null for none.
    """

    def __init__(
        self,
        clip: str | None = VIT_L,
        image_model: str | None = None,
        steps: str | int | list[int] | None = None,
        dream: str | None = "dream",
        language: str | None = "language",
        language_probe: bool = True,
        text_every_n_steps: int = 50,
        loss_every_n_steps: int = 50,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        stop_when: str | None = None,
        cache_dir: str | None = "tb_logs/.drift",
    ) -> None:
        whole(text_every_n_steps, "clip_drift.text_every_n_steps", 0)
        whole(loss_every_n_steps, "clip_drift.loss_every_n_steps", 0)
        self.clip = clip
        self.image_model = image_model
        self._judges = Judges(clip, image_model)
        self.steps = None if steps is None else Milestones(steps, "clip_drift.steps").steps
        self.dream = dream
        self.language = language
        self.language_probe = language_probe
        self.text_every_n_steps = text_every_n_steps
        self.loss_every_n_steps = loss_every_n_steps
        self.thresholds = thresholds
        self.stop_rule = StopRule(stop_when)
        self.cache_dir = cache_dir
        #: The newest milestone's reading, on the first rank.
        self.reading: Reading | None = None
        #: What measures; None where nothing is measured, and on all ranks but the first.
        self.evaluator: DriftEvaluator | None = None
        self._grid: SeedGrid | None = None
        self._milestones = Milestones("", "clip_drift.steps")
        self._folder = Path()
        self._begun = False  # whether this fit's references have been taken
        self._references = References(cache_dir)
        self._photos = 0, 0  # that are trained on, and held out

    # -- before anything is loaded ----------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """What takes most memory of a measurement, for a rehearsal."""
        grid = self._grid
        if grid is None or self.steps == [] or not grid.phases():
            return []
        language = grid.groups.get(self.language or "")
        prompts = len(language.prompts) if language else 0
        levels = len(NOISE_LEVELS)
        together = max(levels, prompts + 1 if language else 0)
        looked_at, held_out = self._photos
        asked = levels * (len(shown(looked_at)) + min(held_out, MOST_HELD_OUT)) + 2 * FIRST_STEPS
        if self.language_probe and prompts > 1:
            asked += len(trials(min(prompts, PROBE_FORWARDS - 1))) * (prompts + 1)
        # Pictures are encoded too, which takes what decoding them takes.
        measures = partial(rehearse_step, pictures=together, sampling=Sampling(guidance_scale=1.0))
        phases = [Phase("measures", measures, times=asked / together)]
        seen = sum(len(grid.groups[name].keys) for name in (self.dream, self.language) if name in grid.groups)
        phases += self._judges.phases(seen)
        if self.loss_every_n_steps and looked_at:
            curve = partial(rehearse_step, pictures=levels, sampling=Sampling(guidance_scale=1.0))
            times = 1.5 if held_out else 1  # trained photos every second time
            phases.append(Phase("loss curve", curve, times=times, every=self.loss_every_n_steps))
        return phases

    def to_fetch(self) -> dict[str, int | None]:
        """What embeds, if it is to be downloaded, with its bytes where they are known; reaches no hub."""
        return self._judges.to_fetch() if self.phases() else {}

    # -- when -------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the seed grid, wherever the configuration has put it."""
        data: Any = getattr(trainer, "datamodule", None)
        self._photos = (
            (getattr(data, "count", 0), getattr(data, "held_out_count", 0)) if stage == "fit" else (0, 0)
        )
        self._grid = next((c for c in trainer.callbacks if isinstance(c, SeedGrid)), None)  # type: ignore[attr-defined]
        if self._grid is not None and self not in self._grid.listeners:
            self._grid.listeners.append(self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the probe pictures and the CLIP, and say early what is missing.

        Raises:
            UserError: What measures is a local folder and cannot be loaded.
        """
        self._judges.refuse_missing()  # though no milestone asks for it
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all ranks
        self._begun = False
        self._prepare(trainer, pl_module)
        self.stop_rule.begin(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what the fit is compared with, unless the seed grid's first pictures have asked for it."""
        self._milestones.begin(trainer)
        self._begin(trainer, pl_module)

    def on_grid(self, trainer: Trainer, module: Any, pictures: GridPictures) -> None:
        """Measure where a milestone is due, and stop there if asked to.

        In a ``validate`` run measure against the checkpoint's base; no event file is opened.
        """
        step, fitting = pictures.step, trainer.state.fn == "fit"
        if fitting:
            self._begin(trainer, module)
        else:
            self._prepare(trainer, module)
            if self.evaluator is not None:
                self._references.take_from_checkpoint(trainer, module, self.evaluator, step)
        due = not fitting or step in self._milestones.steps
        if self.evaluator is not None and (due or step == 0):
            with self._measuring(module, step):
                self._measure(trainer, module, self.evaluator, pictures, due)
        if fitting and due and step > 0:
            self.stop_rule.apply(trainer, step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what needs no pictures, at the steps between the measured milestones."""
        step = self._milestones.new_step(trainer, batch_idx)
        if step is None or self.evaluator is None:
            return
        text, loss = (
            bool(every) and step % every == 0 for every in (self.text_every_n_steps, self.loss_every_n_steps)
        )
        milestone = step in self._milestones.steps
        if (milestone and self._references.complete) or not (text or loss or milestone):
            return
        found: dict[str, float] = {}
        with self._measuring(pl_module, step):
            if text:
                found |= self._text_measures(trainer, pl_module, self.evaluator)
            if (loss or milestone) and (known := self._references.photo_base) is not None:
                context = trainer.strategy.precision_plugin.forward_context
                every = self.loss_every_n_steps
                both = milestone or known.held_out is None or step // every % 2 == 0
                found |= self.evaluator.photos.between(known, pl_module, context, both)
        log_scalars(trainer, step, {f"drift/{name}": value for name, value in found.items()})

    # -- what -------------------------------------------------------------------------------------------

    def _prepare(self, trainer: Trainer, module: Any) -> None:
        """Find when and what is measured."""
        self.evaluator = None
        grid = self._grid
        rendered = grid.milestones.steps if grid is not None and grid.groups else []
        self._milestones.steps = rendered if self.steps is None else [s for s in self.steps if s in rendered]
        if grid is None or self.steps == [] or not trainer.is_global_zero:
            return
        if not grid.groups or not (rendered or trainer.state.fn == "validate"):
            return
        if missing := [step for step in self.steps or [] if step not in rendered]:
            steps = ", ".join(map(str, missing))
            notice(f"clip_drift.steps: nothing is measured at {steps}, which is not in seed_grid.steps")
        groups = {name: (group.prompts, group.seeds) for name, group in grid.groups.items()}
        probes = find_probes(groups, self.dream, self.language, getattr(module, "instance_prompt", ""))
        for remark in probes.remarks:
            notice(remark)
        if not probes.keys:
            notice("clip_drift: none of the seed grid's pictures is a probe; the drift is not measured")
            return
        self.evaluator = DriftEvaluator(
            probes, self.clip, self.thresholds, self.language_probe, self.image_model
        )
        refusal = self.evaluator.refusal
        if refusal is not None and trainer.state.fn == "fit" and self._judges.is_local(refusal.option):
            raise refusal
        if self.evaluator.unavailable:
            notice(f"clip_drift: verdict not available: {self.evaluator.unavailable}")
        if self.evaluator.blind:
            notice(f"clip_drift: {self.evaluator.blind}")
        self._references.settings = self.evaluator.settings(module, grid, str(trainer.precision))

    def _begin(self, trainer: Trainer, module: Any) -> None:
        """Take what this fit is compared with, once: at its start, or with the seed grid's first pictures."""
        if self._begun or self.evaluator is None:
            return
        self._begun = True
        earlier = trainer.ckpt_path and run_of(Path(str(trainer.ckpt_path)).resolve())
        if earlier != self._folder.resolve():
            held_out = bool(getattr(trainer.datamodule, "held_out", 0))  # type: ignore[attr-defined]
            describe_run(trainer, self._description(trainer, module), held_out)
        rendered = self._grid is not None and 0 in self._grid.milestones.steps
        with self._measuring(module, trainer.global_step):
            self._references.take(trainer, module, self.evaluator, base_is_rendered=rendered)

    @staticmethod
    def _measuring(module: Any, step: int) -> AbstractContextManager[None]:
        return during(f"measuring the drift at step {step}", lambda full: _measuring_less(module, full))

    def _measure(
        self, trainer: Trainer, module: Any, evaluator: DriftEvaluator, pictures: GridPictures, due: bool
    ) -> None:
        """A reading of the seed grid's pictures, to everywhere; at step 0 the base's statistics first.

        Args:
            trainer: The Trainer.
            module: The module that is trained.
            evaluator: What measures.
            pictures: The seed grid's.
            due: Whether a reading is asked for; else only the base's statistics are taken.
        """
        references, context = self._references, trainer.strategy.precision_plugin.forward_context
        step = pictures.step
        if references.photos is None or (step > 0 and references.base is None):
            return
        if step == 0 and pictures.found and references.find_known_base() and references.base is not None:
            features = references.base.pictures
        else:
            images = [pictures.images[key] for key in evaluator.probes.keys]
            features = evaluator.features(images, module.device)
            if step == 0:
                references.take_base(evaluator, pictures.images, features, module, context)
        base, known = references.base, references.photo_base
        if base is None or not due:
            return
        if step:
            explaining = evaluator.explaining(base, pictures.images, module, context)
            asked = None if known is None else evaluator.photos.milestone(known, module, context)
        else:  # the base's own were just taken
            explaining = evaluator.of_base(base)
            asked = None if known is None else evaluator.photos.of_base(known)
        first = self.reading is None
        self.reading = reading = evaluator.read(
            step,
            features,
            base,
            references.photos,
            explaining=self._text_measures(trainer, module, evaluator) | explaining,
            weights=module.weight_changes() if hasattr(module, "weight_changes") else {},
            asked=asked,
        )
        tqdm.write(reading.line)
        for doubt in reading.doubts if first else ():
            tqdm.write(f"Read it with care: {doubt}.")
        self._write(trainer, reading)

    def _text_measures(self, trainer: Trainer, module: Any, evaluator: DriftEvaluator) -> dict[str, float]:
        pooled = self._references.pooled
        if pooled is None or not getattr(module, "train_text_encoder", False):
            return {}
        return evaluator.text(pooled, module, trainer.strategy.precision_plugin.forward_context)

    def _write(self, trainer: Trainer, reading: Reading) -> None:
        """To the run folder and to TensorBoard; of a ``validate`` run to its own folder only."""
        name = f"step={reading.step:05d}"
        if trainer.state.fn == "validate":
            path = Path(trainer.default_root_dir) / "validate" / name / "drift.json"
        else:
            path = self._folder / "drift" / f"{name}.json"
            log_reading(trainer, reading)
            if reading.verdict is not None:
                self.stop_rule.zones[reading.step] = reading.verdict.zone
        try:
            reading.save(path)
        except OSError as error:
            notice(f"cannot write {path}: {error.strerror or error}; the run goes on")

    # -- checkpoints ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The base's statistics, the verdicts so far and the thresholds: tensors and plain values."""
        entries = self._references.state(self.evaluator, self.stop_rule.zones).entries
        named = {"thresholds": asdict(self.thresholds), "image_model": self.image_model}
        return {**entries, **named}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what a checkpoint holds; Lightning hands over a copy."""
        self._references.checkpoint = DriftState(state_dict)
        self.stop_rule.zones = self._references.checkpoint.zones()

    def _description(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        """This run in plain values, for the table of runs."""
        recipe = module.recipe() if hasattr(module, "recipe") else {}
        return {
            **recipe,
            "max_steps": trainer.max_steps,
            "pipeline": getattr(module, "pipeline", ""),
            "photos": getattr(trainer.datamodule, "instance_dir", ""),  # type: ignore[attr-defined]
            "clip": self.clip,
            "image_model": str(self.image_model or self.clip),
        }


def _measuring_less(module: Any, full: Exhausted) -> Remedy:
    smaller = Remedy("take a smaller CLIP (clip_drift.clip), or clip_drift.language_probe false")
    return more_room(module, full) or smaller
