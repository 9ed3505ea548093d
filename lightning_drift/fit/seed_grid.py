"""SeedGrid: the same prompts and seeds at every milestone, so that the drift can be seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.halving import Batch
from lightning_drift.common.modules import eval_mode, placed
from lightning_drift.common.names import file_name
from lightning_drift.common.number_lists import integers
from lightning_drift.common.out_of_memory import during, sentence
from lightning_drift.common.prompt_lengths import tell_cut
from lightning_drift.common.prompt_lists import read_prompts, slug
from lightning_drift.fit.bar_names import GRID_BAR
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.dial_row import dial_pictures, dial_sheet, read_values
from lightning_drift.fit.grid_files import save_drift_sheet, save_pictures
from lightning_drift.fit.less_memory import less_for_a_grid
from lightning_drift.fit.milestones import Milestones
from lightning_drift.forecast.rehearsal import Phase
from lightning_drift.images.contact_sheet import contact_sheet
from lightning_drift.images.png import save_png
from lightning_drift.stable_diffusion.sampling import (
    Sampling,
    check_size,
    dream_all,
    rehearse_decoding,
    rehearse_step,
)

MOST_PICTURES = 10_000
"""Pictures of one milestone at most."""


@dataclass(frozen=True)
class GridPictures:
    """What a seed grid has rendered at one milestone.

    Attributes:
        step: Optimizer steps; 0 is the base model.
        images: Pictures by (prompt, seed); only the first rank renders, and all others have none.
    """

    step: int
    images: Mapping[tuple[str, int], Image.Image] = field(default_factory=dict)


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
        groups: Named groups, each with its own ``prompts`` (one prompt, a ``.txt`` file or a list) and
            ``seeds`` (such as ``0-7``).
        guidance_scale: Classifier-free guidance; the recipe's 3.0.
        num_inference_steps: DDIM steps.
        negative_prompt: What to steer away from; empty for none.
        batch_size: Pictures sampled together; halved, with a notice, where they do not fit into the memory.
        height: Picture height in pixels, a multiple of 8 for SD v1.5; null for the model's own size.
        width: Picture width likewise.
        drift_dial: Values such as ``0.5,1,1.25`` for one more row at each milestone after 0: the first
            group's first prompt and seed with the drift turned to each (W0 + value (W - W0), 0 to 1.5), on
            ``dial_step=01200.png`` and in TensorBoard as ``dial/<prompt>``. It shows whether taking back some
            of the change, or adding to it, would be better. Needs a copy of the weights in the computer's
            memory while it is made; null for no row.

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
        batch_size: int = 4,
        height: int | None = None,
        width: int | None = None,
        drift_dial: str | float | list[float] | None = None,
    ) -> None:
        self.sampling = Sampling.read(
            "seed_grid",
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            batch_size=batch_size,
        )
        self._batch = Batch(
            batch_size, "seed_grid.batch_size"
        )  # a size that did not fit once is not tried again
        self.milestones = Milestones(steps, "seed_grid.steps")
        self.groups: dict[str, tuple[list[str], list[int]]] = {}
        for name, group in (groups or {}).items():
            file_name(name, "seed_grid.groups")  # a grid's file is called so
            option = f"seed_grid.groups.{name}"
            if not isinstance(group, dict) or set(group) - {"prompts", "seeds"} or "prompts" not in group:
                raise UserError("give prompts and seeds, for example {prompts: 'a tree', seeds: 0-7}", option)
            prompts = read_prompts(group["prompts"], f"{option}.prompts")
            self.groups[name] = prompts, integers(group.get("seeds", "0-7"), f"{option}.seeds")
        count = sum(len(prompts) * len(seeds) for prompts, seeds in self.groups.values())
        if count > MOST_PICTURES:
            raise UserError(
                f"the groups hold {count:,} pictures, more than {MOST_PICTURES:,}; give fewer prompts or "
                "seeds",
                "seed_grid.groups",
            )
        by_name: dict[str, str] = {}
        for prompt in (prompt for prompts, _ in self.groups.values() for prompt in prompts):
            if by_name.setdefault(slug(prompt), prompt) != prompt:
                raise UserError(
                    f"{by_name[slug(prompt)]!r} and {prompt!r} differ only in punctuation "
                    "or case, and their grids would share a name; keep one of them",
                    "seed_grid.groups",
                )
        self.dial_values = read_values(drift_dial, "seed_grid.drift_dial")
        if self.dial_values and "dial" in self.groups:
            raise UserError("the name dial is taken by seed_grid.drift_dial; use another", "seed_grid.groups")
        self.listeners: list[GridListener] = []

    # -- when -------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Say early which milestones will never be reached, and which prompts are longer than the model sees.

        Raises:
            UserError: The picture size does not suit the model.
        """
        if self.groups:
            check_size(pl_module.stable_diffusion, "seed_grid", self.sampling.height, self.sampling.width)
            self.milestones.announce(trainer)
            if self.milestones.steps:
                prompts = [prompt for prompts, _ in self.groups.values() for prompt in prompts]
                tell_cut(pl_module.stable_diffusion.tokenizer, [*prompts, self.sampling.negative_prompt])

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
        pictures = GridPictures(step)
        if trainer.is_global_zero:
            with during(
                f"the seed grid at step {step} with one picture at a time",
                lambda full: less_for_a_grid(pl_module, full, self.sampling),
            ):
                images = self.render(trainer, pl_module, f"{GRID_BAR} {step}")
            pictures = GridPictures(step, images)
            validating = trainer.state.fn == "validate"
            folder = Path(trainer.default_root_dir if validating else run or trainer.default_root_dir)
            place = folder / (f"validate/step={step:05d}" if validating else "grids")
            self._write(place, pictures, over_time=not validating)
            if not validating:
                self._log(trainer, pictures)
            if self.dial_values and step:
                self._turn_dial(trainer, pl_module, place, step)
        trainer.strategy.barrier()
        for listener in self.listeners:
            listener.on_grid(trainer, pl_module, pictures)

    def render(self, trainer: Trainer, pl_module: Any, title: str) -> dict[tuple[str, int], Image.Image]:
        """Sample every (prompt, seed) of all groups once, in the groups' order.

        Modes of all submodules are restored one by one afterwards, and no generator but our own is used.
        """
        keys = list(
            dict.fromkeys((p, s) for prompts, seeds in self.groups.values() for p in prompts for s in seeds)
        )
        return dict(zip(keys, self.sample(trainer, pl_module, keys, title), strict=True))

    def sample(
        self, trainer: Trainer, pl_module: Any, keys: Sequence[tuple[str, int]], title: str
    ) -> list[Image.Image]:
        """Sample pictures of (prompt, seed) with the grid's settings; modes are restored as in ``render``."""
        precision = trainer.strategy.precision_plugin
        vae = pl_module.stable_diffusion.vae
        with (
            eval_mode(pl_module.unet, pl_module.text_encoder, vae),
            placed(vae, pl_module.device),
            tqdm(
                total=len(keys),
                desc=title,
                unit="img",
                leave=trainer.state.fn == "validate",
                dynamic_ncols=True,
                disable=not _bar_shown(trainer),
            ) as bar,
        ):
            return dream_all(
                pl_module.stable_diffusion,
                keys,
                self.sampling,
                precision.forward_context,
                bar.update,
                self._batch,
            )

    def phases(self) -> list[Phase]:
        """What takes most memory of a grid, for a rehearsal."""
        together = min(self.pictures, self.sampling.batch_size)
        if not together or not self.milestones.steps:
            return []
        return [
            Phase("grids", partial(rehearse_step, pictures=together, sampling=self.sampling)),
            Phase("decoding", partial(rehearse_decoding, sampling=self.sampling)),
        ]

    @property
    def pictures(self) -> int:
        """Pictures of one milestone, without the dial's."""
        keys = {(p, s) for prompts, seeds in self.groups.values() for p in prompts for s in seeds}
        return len(keys)

    def _turn_dial(self, trainer: Trainer, pl_module: Any, folder: Path, step: int) -> None:
        """The row of drift values; a base that is gone, a full disk or memory costs the row only."""
        prompts, seeds = next(iter(self.groups.values()))
        try:
            images = dial_pictures(
                pl_module,
                self.dial_values,
                lambda title: self.sample(trainer, pl_module, [(prompts[0], seeds[0])], title)[0],
            )
            save_png(
                folder / f"dial_step={step:05d}.png",
                dial_sheet(images, self.dial_values, prompts[0], seeds[0]),
            )
        except Exception as error:
            full = sentence(error)
            if not full and not isinstance(error, UserError | OSError):
                raise
            notice(f"cannot make the dial's row at step {step}: {full or error}; the run goes on")
            return
        if trainer.state.fn != "validate":
            self._add_row(trainer, f"dial/{slug(prompts[0])}", images, step)

    def _write(self, folder: Path, pictures: GridPictures, over_time: bool) -> None:
        """One labelled sheet per group. A full disk costs the sheets, not the run."""
        try:
            for name, (prompts, seeds) in self.groups.items():
                sheet = contact_sheet(
                    [pictures.images[prompt, seed] for prompt in prompts for seed in seeds],
                    rows=[prompt or "(empty prompt)" for prompt in prompts],
                    columns=[str(seed) for seed in seeds],
                )
                save_png(folder / f"{name}_step={pictures.step:05d}.png", sheet)
            if over_time:
                save_pictures(folder, pictures.step, pictures.images)
                for name, (prompts, seeds) in self.groups.items():
                    save_drift_sheet(folder / f"{name}_drift.png", prompts, seeds)
        except OSError as error:
            notice(f"cannot write the grids in {folder}: {error.strerror or error}; the fit goes on")

    def _log(self, trainer: Trainer, pictures: GridPictures) -> None:
        """Each prompt's row of pictures under one tag over all steps."""
        rows: dict[str, list[int]] = {}
        for prompts, seeds in self.groups.values():
            for prompt in prompts:
                rows[prompt] = list(dict.fromkeys([*rows.get(prompt, []), *seeds]))
        for prompt, seeds in rows.items():
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
