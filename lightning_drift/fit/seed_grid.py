"""SeedGrid: the same prompts and seeds at every milestone, so that the drift can be seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import user_path
from lightning_drift.common.modules import eval_mode, placed
from lightning_drift.common.out_of_memory import during, sentence
from lightning_drift.common.prompt_lengths import tell_cut
from lightning_drift.common.prompt_lists import slug
from lightning_drift.fit.bar_names import GRID_BAR
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.dial_row import dial_pictures, dial_sheet, read_values
from lightning_drift.fit.grid_files import PictureWriter, save_drift_sheet
from lightning_drift.fit.grid_groups import pictures_of, read_groups, seeds_by_prompt
from lightning_drift.fit.grid_sampling import GridSampler, Images, Key
from lightning_drift.fit.less_memory import less_for_a_grid
from lightning_drift.fit.milestones import Milestones
from lightning_drift.forecast.rehearsal import Phase
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.images.png import save_png
from lightning_drift.stable_diffusion.drift_dial import check_parts
from lightning_drift.stable_diffusion.picture_cache import PictureCache
from lightning_drift.stable_diffusion.sampling import Sampling, check_size
from lightning_drift.stable_diffusion.sampling_peaks import rehearse_decoding, rehearse_step

_SMALLEST = 4
"""Pictures that "auto" samples together where more do not fit."""


@dataclass(frozen=True)
class GridPictures:
    """What a seed grid has rendered at one milestone.

    Attributes:
        step: Optimizer steps; 0 is the base model.
        images: Pictures by (prompt, seed); only the first rank renders, and all others have none.
        found: Whether all of them are a base's that was rendered before, with the same bits.
    """

    step: int
    images: Mapping[tuple[str, int], Image.Image] = field(default_factory=dict)
    found: bool = False


class GridListener(Protocol):
    """Something that is handed a seed grid's pictures."""

    def on_grid(self, trainer: Trainer, module: Any, pictures: GridPictures) -> None:
        """Take a milestone's pictures, in ``fit`` and in ``validate``, on every rank.

        The grid is written by then. The step's checkpoint is not saved yet.
        """


class SeedGrid(Callback):
    """Renders groups of prompts and seeds at chosen optimizer steps; step 0 is the untouched base model.

    Rows are prompts, columns are seeds; each seed starts from the same noise at every step. A grid goes to
    ``grids/<group>_step=01200.png`` in the run folder, the drift over all milestones to
    ``grids/<group>_drift.png``, the single pictures to ``grids/step=01200/``, and each of its rows to
    TensorBoard as ``grid/<prompt>``, one tag over all steps, so that the slider scrubs through the fine-tune.
    Training is not changed by a bit.

    Args:
        steps: Optimizer steps to render at; 0 is the base model.
        groups: Named groups, each with its own ``prompts`` (one prompt, a ``.txt`` file or a list), ``seeds``
            (such as ``0-7``) and, if they are not the grid's, ``num_inference_steps``.
        guidance_scale: Classifier-free guidance; the recipe's 3.0.
        num_inference_steps: DDIM steps.
        negative_prompt: What to steer away from; empty for none.
        batch_size: Pictures sampled together at most; halved, with a notice, where they do not fit into the
            memory. "auto" is the largest of 16, 8 and 4 whose forecast fits the free memory of the GPU; on a
            CPU it is 8.
        height: Picture height in pixels, a multiple of 8 for SD v1.5; null for the model's own size.
        width: Picture width likewise.
        drift_dial: Values such as ``0.5,1,1.25`` for one more row at each milestone after 0: the first
            group's first prompt and seed with the drift turned to each (W0 + value (W - W0), 0 to 1.5), on
            ``dial_step=01200.png`` and in TensorBoard as ``dial/<prompt>``. It shows whether taking back some
            of the change, or adding to it, would be better; ``text_encoder=0.5`` turns one part alone, and
            ``;`` stands between two values of parts. Needs a copy of the weights in the computer's memory
            while it is made; null for no row.
        cache_dir: Folder where the base model's pictures are kept for all fits of that base; null for none.

    Attributes:
        listeners: What is handed each milestone's pictures, in this order.
    """

    def __init__(
        self,
        steps: str | int | list[int] = "0,800,1200,1600",
        groups: dict[str, dict[str, Any]] | None = None,
        guidance_scale: float = 3.0,
        num_inference_steps: int = 50,
        negative_prompt: str = "",
        batch_size: int | Literal["auto"] = 4,
        height: int | None = None,
        width: int | None = None,
        drift_dial: str | float | list[float | str] | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.sampling = Sampling.read(
            "seed_grid",
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            batch_size=_SMALLEST if batch_size == "auto" else batch_size,
        )
        self.milestones = Milestones(steps, "seed_grid.steps")
        self.groups = read_groups(groups, self.sampling)
        #: How each picture of a milestone is sampled, by prompt and seed.
        self.pictures = pictures_of(self.groups)
        self.auto_batch = batch_size == "auto"
        self._sampler = GridSampler(self.pictures, self.sampling.batch_size)
        self.cache_dir = cache_dir
        self.dial_values = read_values(drift_dial, "seed_grid.drift_dial")
        if self.dial_values and "dial" in self.groups:
            raise UserError("the name dial is taken by seed_grid.drift_dial; use another", "seed_grid.groups")
        self.listeners: list[GridListener] = []

    # -- when -------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Say early which milestones will never be reached, and which prompts are longer than the model sees.

        Raises:
            UserError: The picture size does not suit the model, or the dial turns a part that is not trained.
        """
        if self.groups:
            check_size(pl_module.stable_diffusion, "seed_grid", self.sampling.height, self.sampling.width)
            trains = getattr(pl_module, "train_text_encoder", True)
            for value in self.dial_values:
                check_parts(value, trains, "this run", "seed_grid.drift_dial")
            self.milestones.announce(trainer)
            if self.milestones.steps:
                prompts = [*seeds_by_prompt(self.groups), self.sampling.negative_prompt]
                tell_cut(pl_module.stable_diffusion.tokenizer, prompts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Render the base model, unless this run goes on from a checkpoint."""
        self.milestones.begin(trainer)
        if trainer.global_step == 0 and 0 in self.milestones.steps:
            self._milestone(trainer, pl_module, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Render where a milestone is due."""
        step = self.milestones.new_step(trainer, batch_idx)
        if step is not None and step in self.milestones.steps:
            getattr(pl_module, "check_finite", lambda: None)()
            self._milestone(trainer, pl_module, step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In a ``validate`` run, render the given checkpoint under its own step."""
        if trainer.state.fn == "validate":
            step = int(read_checkpoint(str(trainer.ckpt_path))["global_step"]) if trainer.ckpt_path else 0
            self._milestone(trainer, pl_module, step)

    # -- what -------------------------------------------------------------------------------------------

    def _milestone(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        run = trainer.log_dir  # asks all ranks
        if not self.groups:
            return
        getattr(pl_module, "release_graph", bool)()
        pictures = GridPictures(step)
        if trainer.is_global_zero:
            validating = trainer.state.fn == "validate"
            folder = Path(trainer.default_root_dir if validating else run or trainer.default_root_dir)
            place = folder / (f"validate/step={step:05d}" if validating else "grids")
            title, keys = f"{GRID_BAR} {step}", list(self.pictures)
            with PictureWriter(place, step) as writer:
                with during(
                    f"the seed grid at step {step} with one picture at a time",
                    lambda full: less_for_a_grid(pl_module, full, self.sampling),
                ):
                    single = bool if validating else writer.write
                    untouched = step == 0 and not trainer.ckpt_path
                    images = self.sample(trainer, pl_module, keys, title, single, untouched)
                pictures = GridPictures(step, images, self._sampler.found)
                self._write(place, pictures, writer, over_time=not validating)
            if not validating:
                self._log(trainer, pictures)
            if self.dial_values and step:
                self._turn_dial(trainer, pl_module, place, step)
        trainer.strategy.barrier()
        for listener in self.listeners:
            listener.on_grid(trainer, pl_module, pictures)

    def sample(
        self,
        trainer: Trainer,
        pl_module: Any,
        keys: Sequence[Key],
        title: str,
        made: Callable[[Images], object] = bool,
        base: bool = False,
    ) -> Images:
        """Sample pictures with the grid's settings.

        Modes of all submodules are restored one by one afterwards, and no generator but our own is used.

        Args:
            trainer: The Trainer.
            pl_module: The module whose model is asked.
            keys: Prompt and seed of each picture, all of the grid's.
            title: What the progress bar says.
            made: Called with each batch of pictures.
            base: Whether the model is an untouched base, whose pictures are kept in ``cache_dir``.
        """
        model = pl_module.stable_diffusion
        cache = None
        if base and self.cache_dir is not None:
            folder = user_path(self.cache_dir, "seed_grid.cache_dir")
            precision = "float32" if trainer.precision == "32-true" else str(trainer.precision)
            cache = PictureCache(folder, model, model.hash, precision)
        with (
            eval_mode(pl_module.unet, pl_module.text_encoder, model.vae),
            placed(model.vae, pl_module.device),
            tqdm(
                total=len(keys),
                desc=title,
                unit="img",
                leave=trainer.state.fn == "validate",
                dynamic_ncols=True,
                disable=not _bar_shown(trainer),
            ) as bar,
        ):

            def take(images: Images) -> None:
                made(images)
                bar.update(len(images))

            context = trainer.strategy.precision_plugin.forward_context
            return self._sampler.sample(model, keys, context, take, cache)

    def batch_sizes(self, device: str) -> Sequence[int]:
        """What "auto" may grow to on a device of a type, step by step; empty where a size is given."""
        if not self.auto_batch or not self.pictures:
            return []
        return [8, 16] if device == "cuda" else [8]

    def take_batch(self, size: int) -> None:
        """Sample so many pictures together from now on."""
        self.sampling = replace(self.sampling, batch_size=size)
        self.pictures = {key: replace(own, batch_size=size) for key, own in self.pictures.items()}
        self._sampler = GridSampler(self.pictures, size)

    def phases(self) -> list[Phase]:
        """What takes most memory of a grid, for a rehearsal."""
        if not self.pictures or not self.milestones.steps:
            return []
        sampling, together, count = (
            partial(rehearse_step, sampling=self.sampling),
            self.together,
            len(self.steps),
        )
        decoding = partial(rehearse_decoding, sampling=self.sampling)
        return [
            Phase("grids", partial(sampling, pictures=together), times=sum(self.steps) / together),
            Phase("decoding", decoding, times=count),
        ]

    @property
    def together(self) -> int:
        """Pictures that are sampled together at most."""
        return max(map(self._sampler.together, self.pictures.values()), default=0)

    @property
    def steps(self) -> list[int]:
        """DDIM steps of each picture of a milestone after the first, the dial's too."""
        dial = next(iter(self.pictures.values()), self.sampling)
        pictures = [*self.pictures.values(), *[dial] * len(self.dial_values)]
        return [sampling.num_inference_steps for sampling in pictures]

    def _turn_dial(self, trainer: Trainer, pl_module: Any, folder: Path, step: int) -> None:
        """The row of drift values; a base that is gone, a full disk or memory costs the row only."""
        prompt, seed = key = next(iter(self.pictures))
        try:
            images = dial_pictures(
                pl_module,
                self.dial_values,
                lambda title: self.sample(trainer, pl_module, [key], title)[key],
            )
            save_png(folder / f"dial_step={step:05d}.png", dial_sheet(images, self.dial_values, prompt, seed))
        except Exception as error:
            full = sentence(error)
            if not full and not isinstance(error, UserError | OSError):
                raise
            notice(f"cannot make the dial's row at step {step}: {full or error}; the run goes on")
            return
        if trainer.state.fn != "validate":
            self._add_row(trainer, f"dial/{slug(prompt)}", images, step)

    def _write(self, folder: Path, pictures: GridPictures, writer: PictureWriter, over_time: bool) -> None:
        """One labelled sheet per group. A full disk costs the sheets, not the run."""
        try:
            for name, group in self.groups.items():
                sheet = contact_sheet(
                    [pictures.images[key] for key in group.keys],
                    rows=[prompt or "(empty prompt)" for prompt in group.prompts],
                    columns=[str(seed) for seed in group.seeds],
                )
                save_png(folder / f"{name}_step={pictures.step:05d}.png", sheet)
            writer.finish()
            for name, group in self.groups.items() if over_time else ():
                save_drift_sheet(folder / f"{name}_drift.png", group.prompts, group.seeds)
        except OSError as error:
            notice(f"cannot write the grids in {folder}: {error.strerror or error}; the fit goes on")

    def _log(self, trainer: Trainer, pictures: GridPictures) -> None:
        """Each prompt's row of pictures under one tag over all steps."""
        for prompt, seeds in seeds_by_prompt(self.groups).items():
            images = [pictures.images[prompt, seed] for seed in seeds]
            self._add_row(trainer, f"grid/{slug(prompt)}", images, pictures.step)

    def _add_row(self, trainer: Trainer, tag: str, images: Sequence[Image.Image], step: int) -> None:
        for logger in trainer.loggers:
            writer: Any = getattr(logger, "experiment", None)
            if isinstance(writer, SummaryWriter):
                row = np.concatenate([np.asarray(image) for image in images], axis=1)
                writer.add_image(tag, row, step, dataformats="HWC")
                writer.flush()


def _bar_shown(trainer: Trainer) -> bool:
    return trainer.progress_bar_callback is not None and trainer.progress_bar_callback.is_enabled  # type: ignore[attr-defined]
