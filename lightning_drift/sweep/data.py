"""Sweep: the pictures of a sweep, as the data of a ``predict`` run."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_drift.common.errors import UserError
from lightning_drift.common.names import file_name
from lightning_drift.common.numbers import MOST_TOGETHER, shown, whole
from lightning_drift.common.share import Share
from lightning_drift.dreams.dreamer import DREAM_PROMPT
from lightning_drift.sweep.cells import Grid, Product, SweepRequest
from lightning_drift.sweep.models import SweepModel, find_models
from lightning_drift.sweep.shares import own_batches
from lightning_drift.sweep.sweep_dreamer import SweepDreamer

MAIN = "sweep"
MOST_CELLS = 500_000
"""Cells of a sweep at most: weeks of pictures."""
MOST_SHEETS = 10_000
_OPTIONS = (
    "prompts",
    "slots",
    "sample_prompts",
    "seeds",
    "guidance_scale",
    "num_inference_steps",
    "drift",
    "sampling_drift",
)


class Sweep(LightningDataModule):
    """Every prompt with every seed, guidance scale, step count, checkpoint, drift and sampling drift.

    A cell is one combination of these and has one picture. Its bits follow from the cell alone: a sweep that
    is stopped and run again, extended, or shared out over devices gives the same files.

    Args:
        checkpoints: Models to dream with: checkpoints of a fit, exports, base models.
        base: Where to find the base of the checkpoints, if not where they say.
        prompts: One prompt (its commas kept), a list of prompts, lists by group, or a ``.txt`` or ``.yaml``
            file of them; files that are not here are looked for among those that come with the package, such
            as ``ablations.yaml``. Prompts may be templates with slots, such as ``a city by {artist}``.
        slots: Values of each slot: a list, or a ``.txt`` file such as ``artists.txt``. A template with a slot
            twice takes pairs of different values.
        sample_prompts: Keep this many of the prompts, chosen at random, always the same ones; null for all.
        seeds: Seeds, such as ``0-31`` or ``1,5,9``.
        guidance_scale: Guidance scales, such as ``1,3,7.5``.
        num_inference_steps: DDIM step counts, such as ``20,50``.
        drift: Drifts, such as ``0.5,1,1.25``: 0 is the base, 1 the checkpoint. A base model has none.
            ``unet=1,text_encoder=0.5`` is one with each part's own, in which a part that is left out stays at
            1; ``;`` stands between two of them.
        sampling_drift: Sampling drifts, such as ``0.5,1,0/1@0.4,0..1``: how far the checkpoint's prediction
            counts beside its base's while both denoise together.
        also: Further products by name, each with those of the options prompts to sampling_drift that differ.
        measure: Render the base model's picture of every cell too and measure against it.
        clip: The CLIP that measures: a hub id, a local folder, ``pocket``, or null for the measures that need
            none. ``auto`` is ``pocket`` for the embedded model and else openai/clip-vit-large-patch14.
        photos: Folder of the photos, to measure the pull towards them; null takes what ClipDrift kept of them
            in the checkpoint, if it did.
        batch_size: Pictures sampled together; batches are filled across cells of one model and step count.
        sheets: Contact sheets to write at most, each over two parameters; 0 for none.
        sheet_columns: The parameter along the columns of the sheets; by default the one with the most values.
        sheet_rows: Likewise along the rows.
        share: The part of the pictures that this process makes, such as ``3/16`` for the third of sixteen, on
            any machines that see one folder; null for all. A share writes pictures alone. The same command
            without it, once all shares are done, finds every picture and writes the report.

    Attributes:
        follows: What the command without ``share`` writes, in words.
    """

    follows = "the report"

    def __init__(
        self,
        checkpoints: str | list[str] = "pocket",
        base: str | None = None,
        prompts: str | list[str] | dict[str, str | list[str]] = DREAM_PROMPT,
        slots: dict[str, str | list[str]] | None = None,
        sample_prompts: int | None = None,
        seeds: int | str | list[int] = "0-3",
        guidance_scale: float | str | list[float] = 3.0,
        num_inference_steps: int | str | list[int] = 50,
        drift: float | str | list[float | str] = 1.0,
        sampling_drift: float | str | list[float | str] = 1.0,
        also: dict[str, dict[str, Any]] | None = None,
        measure: bool = True,
        clip: str | None = "auto",
        photos: str | None = None,
        batch_size: int = 8,
        sheets: int = 24,
        sheet_columns: str | None = None,
        sheet_rows: str | None = None,
        share: str | None = None,
    ) -> None:
        super().__init__()
        whole(batch_size, "data.batch_size", 1, MOST_TOGETHER)
        whole(sheets, "data.sheets", 0, MOST_SHEETS)
        if also is not None and not isinstance(also, Mapping):
            raise UserError(f"{shown(also)} holds no products by name", "data.also")
        self.checkpoints = [checkpoints] if isinstance(checkpoints, str) else list(dict.fromkeys(checkpoints))
        self.base = base
        self.measure = measure
        self.clip = clip
        self.photos = photos
        self.batch_size = batch_size
        self.sheets = sheets
        self.sheet_axes = (sheet_columns, sheet_rows)
        self.share = Share.read(share, "data.share")
        options = {
            "prompts": prompts,
            "slots": slots,
            "sample_prompts": sample_prompts,
            "seeds": seeds,
            "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
            "drift": drift,
            "sampling_drift": sampling_drift,
        }
        self.products = [Product.read(MAIN, options, self.checkpoints, "data")]
        for name, changed in (also or {}).items():
            self.products.append(self._further(name, changed, options))
        count = sum(product.count for product in self.products)
        if count > MOST_CELLS:  # before one of them is made
            shapes = "; ".join(f"{product.name}: {product.shape}" for product in self.products[:4])
            raise UserError(
                f"the sweep has {count:,} cells, more than {MOST_CELLS:,} ({shapes}); shorten its lists, or "
                "sweep in parts",
                "data",
            )
        self._models: dict[str, SweepModel] | None = None
        self._grid: Grid | None = None

    def _further(self, name: str, changed: Mapping[str, Any], options: Mapping[str, Any]) -> Product:
        option = f"data.also.{file_name(name, 'data.also')}"  # its sheets' files are called so
        if not isinstance(changed, Mapping):
            raise UserError(f"{shown(changed)} holds no options by name", option)
        if unknown := [key for key in changed if key not in _OPTIONS]:
            raise UserError(f"{unknown[0]} is not one of its options; they are {', '.join(_OPTIONS)}", option)
        if name == MAIN:
            raise UserError(f"the name {MAIN} is taken; choose another", "data.also")
        if "prompts" in changed and "slots" not in changed:
            options = {**options, "slots": None, "sample_prompts": None}
        return Product.read(name, {**options, **changed}, self.checkpoints, option)

    def setup(self, stage: str) -> None:
        """Refuse a module that cannot render it, before anything is loaded.

        Raises:
            UserError: The module is not a `SweepDreamer`.
        """
        if self.trainer is not None and not isinstance(self.trainer.lightning_module, SweepDreamer):
            raise UserError("a Sweep is rendered by model.class_path lightning_drift.SweepDreamer", "data")

    @property
    def prompts(self) -> list[str]:
        """Every prompt of the sweep, once."""
        return list(dict.fromkeys(prompt.text for product in self.products for prompt in product.prompts))

    @property
    def models(self) -> dict[str, SweepModel]:
        """The models by name, opened on first use."""
        if self._models is None:
            self._models = find_models(self.checkpoints, self.base)
        return self._models

    @property
    def grid(self) -> Grid:
        """The cells and their pictures."""
        if self._grid is None:
            self._grid = Grid.of(self.products, self.models, self.measure)
        return self._grid

    def predict_dataloader(self) -> DataLoader[list[SweepRequest]]:
        """Whole batches, so that devices share out batches and not the pictures within."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        batches = own_batches(self, module)
        if self.share is not None and not batches:
            self.share.tell_empty(len(self.grid.batches(self.batch_size)), "batches")
        # Lightning wants a batch for each device; without any it ends before the callbacks' last words.
        batches += [[] for _ in range(self.trainer.world_size - len(batches))]
        return DataLoader(batches, batch_size=1, collate_fn=_first)  # type: ignore[arg-type]


def _first(batches: list[list[SweepRequest]]) -> list[SweepRequest]:
    return list(batches[0])
