"""SeedGrid: the same prompts and seeds at every milestone, so that the drift can be seen."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from tqdm import tqdm

from lightning_drift.common.errors import notice
from lightning_drift.common.files import user_path
from lightning_drift.common.modules import eval_mode, placed
from lightning_drift.common.out_of_memory import during, give_back
from lightning_drift.common.prompt_lengths import tell_cut
from lightning_drift.common.prompt_lists import slug
from lightning_drift.fit.bar_names import GRID_BAR
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.drift_rows import DriftRows, go_on_without, load_base, row_sheet
from lightning_drift.fit.grid_files import PictureWriter, save_drift_sheet
from lightning_drift.fit.grid_groups import pictures_of, read_groups, seeds_by_prompt
from lightning_drift.fit.grid_listeners import GridListener, GridPictures
from lightning_drift.fit.grid_sampling import GridSampler, Images, Key
from lightning_drift.fit.less_memory import less_for_a_grid
from lightning_drift.fit.loggers import log_row
from lightning_drift.fit.milestones import Milestones
from lightning_drift.forecast.rehearsal import Phase
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.images.overlay import laid_over
from lightning_drift.images.png import save_png
from lightning_drift.stable_diffusion.loading import StableDiffusion
from lightning_drift.stable_diffusion.picture_cache import PictureCache
from lightning_drift.stable_diffusion.sampling import DRIFT_MAP, Sampling, check_size
from lightning_drift.stable_diffusion.sampling_peaks import rehearse_decoding, rehearse_step
from lightning_drift.stable_diffusion.with_base import WithBase, mapped_steps

_SMALLEST = 4
"""Pictures that "auto" samples together where more do not fit."""


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
        sampling_drift: Values such as ``0,0.5,1,0/1@0.4`` for a row of that picture with the base denoising
            beside the model (e0 + value (e - e0); see ``model.sampling_drift`` of ``predict``), on
            ``sampling_step=01200.png`` and in TensorBoard as ``sampling/<prompt>``; null for no row. The base
            is read from disk, and lies on the device meanwhile.
        drift_map: Also write, for each picture of the first group after step 0, a map of where model and base
            predict differently, ``..._map.png``; in TensorBoard as ``map/<prompt>``, and on the corridor's
            page. Needs the base likewise.
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
        sampling_drift: str | float | list[float | str] | None = None,
        drift_map: bool = False,
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
        self.rows = DriftRows(drift_dial, sampling_drift, self.groups)
        self.drift_map = drift_map
        self.listeners: list[GridListener] = []

    # -- when -------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Say early which milestones will never be reached, and which prompts are longer than the model sees.

        Raises:
            UserError: The picture size does not suit the model, or the dial turns a part that is not trained.
        """
        if self.groups:
            check_size(pl_module.stable_diffusion, "seed_grid", self.sampling.height, self.sampling.width)
            self.rows.check(getattr(pl_module, "train_text_encoder", True))
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
            base = self._load_base(pl_module, step)
            title = f"{GRID_BAR} {step}"
            with PictureWriter(place, step) as writer:
                with during(
                    f"the seed grid at step {step} with one picture at a time",
                    lambda full: less_for_a_grid(pl_module, full, self.sampling),
                ):
                    single = bool if validating else writer.write
                    untouched = step == 0 and not trainer.ckpt_path
                    images = {**self._mapped(trainer, pl_module, title, single, base)}
                    keys = [key for key in self.pictures if key not in images]
                    if keys:
                        images |= self.sample(trainer, pl_module, keys, title, single, untouched)
                pictures = GridPictures(step, images, self._sampler.found)
                self._write(place, pictures, writer, over_time=not validating)
            if not validating:
                self._log(trainer, pictures)
            if step:
                self._make_rows(trainer, pl_module, step, place, base)
            if base is not None:
                del base
                give_back()
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
        beside: WithBase | None = None,
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
            beside: The base that denoises beside the model, if one does.
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
            return self._sampler.sample(model, keys, context, take, cache, beside)

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
        together, beside = self.together, self.drift_map or bool(self.rows.sampling)
        sampling = partial(rehearse_step, pictures=together, sampling=self.sampling, beside=beside)
        decoding = partial(rehearse_decoding, sampling=self.sampling)
        return [
            Phase("grids", sampling, times=self.predictions / together),
            Phase("decoding", decoding, times=self.count),
        ]

    @property
    def together(self) -> int:
        """Pictures that are sampled together at most."""
        return max(map(self._sampler.together, self.pictures.values()), default=0)

    @property
    def count(self) -> int:
        """Pictures of a milestone after the first, those of the rows too."""
        return len(self.pictures) + len(self.rows)

    @property
    def predictions(self) -> int:
        """Guided predictions of these pictures, the base's beside them too."""
        first = next(iter(self.pictures.values()), self.sampling).num_inference_steps
        maps = len(self._first_group) * len(mapped_steps(first)) if self.drift_map else 0
        own = sum(sampling.num_inference_steps for sampling in self.pictures.values())
        return own + self.rows.predictions(first) + maps

    @property
    def _first_group(self) -> list[Key]:
        return next((group.keys for group in self.groups.values()), [])

    def _load_base(self, pl_module: Any, step: int) -> StableDiffusion | None:
        """The base, where something needs it beside the model; one that is gone costs only that."""
        if not step or not (self.drift_map or self.rows.sampling):
            return None
        try:
            return load_base(pl_module)
        except Exception as error:
            go_on_without(f"the base beside the model at step {step}", error)
            return None

    def _mapped(
        self,
        trainer: Trainer,
        pl_module: Any,
        title: str,
        made: Callable[[Images], object],
        base: StableDiffusion | None,
    ) -> Images:
        """The first group's pictures with their maps, where these are wanted and there is memory for both."""
        if base is None or not self.drift_map:
            return {}
        try:
            beside = WithBase(base, maps=True)
            return self.sample(trainer, pl_module, self._first_group, title, made, beside=beside)
        except Exception as error:
            go_on_without("maps", error)
            return {}

    def _make_rows(
        self, trainer: Trainer, pl_module: Any, step: int, folder: Path, base: StableDiffusion | None
    ) -> None:
        """The rows over drifts; a base that is gone, a full disk or memory costs the row only."""
        prompt, seed = key = next(iter(self.pictures))

        def picture(title: str, beside: WithBase | None = None) -> Image.Image:
            return self.sample(trainer, pl_module, [key], title, beside=beside)[key]

        for name, make in self.rows.wanted(pl_module, base, picture).items():
            try:
                row = make()
                save_png(folder / f"{name}_step={step:05d}.png", row_sheet(row, prompt, seed))
            except Exception as error:
                go_on_without(f"the {name}'s row at step {step}", error)
                continue
            if trainer.state.fn != "validate":
                log_row(trainer, f"{name}/{slug(prompt)}", [*row.values()], step)

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
            log_row(trainer, f"grid/{slug(prompt)}", images, pictures.step)
            maps = [image.info[DRIFT_MAP] for image in images if DRIFT_MAP in image.info]
            if len(maps) == len(images):
                laid = [laid_over(image, each) for image, each in zip(images, maps, strict=True)]
                log_row(trainer, f"map/{slug(prompt)}", laid, pictures.step)


def _bar_shown(trainer: Trainer) -> bool:
    return trainer.progress_bar_callback is not None and trainer.progress_bar_callback.is_enabled  # type: ignore[attr-defined]
