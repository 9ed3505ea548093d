"""The models of a sweep: checkpoints and the bases that their drift is measured from, not yet loaded."""

from collections.abc import Sequence
from functools import cached_property

from lightning_drift.common.errors import UserError
from lightning_drift.common.model_name import model_name
from lightning_drift.stable_diffusion.interpolation import base_of
from lightning_drift.stable_diffusion.loading import open_pipeline
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline
from lightning_drift.stable_diffusion.sampling import check_cells
from lightning_drift.weights.hashes import files_hash


class SweepModel:
    """A model that pictures are made with, opened and not yet loaded; its hash tells models apart.

    Args:
        name: What loads it, as ``checkpoints`` gives it.
        opened: The pipeline, not yet read.
        base: The model it was fine-tuned from; None for one that is a base itself.
        base_name: The option ``base``, where the base was found by it; else None.
    """

    def __init__(
        self,
        name: str,
        opened: OpenedPipeline,
        base: "SweepModel | None" = None,
        base_name: str | None = None,
    ) -> None:
        self.name = name
        self.opened = opened
        self.base = base
        self.base_name = base_name

    @cached_property
    def hash(self) -> str:
        """The first ten digits of its weights' hash."""
        return files_hash(self.opened.files)[:10]

    @property
    def stem(self) -> str:
        """Its name in a picture's parameters."""
        return model_name(self.name)

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one axis."""
        return int(2 ** (len(self.opened.configs["vae"]["block_out_channels"]) - 1))

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of its pictures, its own size where None.

        Raises:
            UserError: A size is not a whole number of latent cells.
        """
        check_cells(self.factor, "model", height, width)
        side = int(self.opened.configs["unet"]["sample_size"]) * self.factor
        return height or side, width or side


def find_models(checkpoints: Sequence[str], base: str | None) -> dict[str, SweepModel]:
    """Find the models of a sweep and their bases.

    A model that does not say what it was fine-tuned from is a base itself, unless ``base`` is given.

    Args:
        checkpoints: The models' names: whatever ``--model.pipeline`` takes.
        base: Where to find the base of them all, if not where they say.

    Returns:
        The models by name.

    Raises:
        UserError: A model or its base cannot be found.
    """
    if not checkpoints:
        raise UserError("the list of checkpoints is empty; give a model, such as pocket", "data.checkpoints")
    bases: dict[str, SweepModel] = {}
    models: dict[str, SweepModel] = {}
    for name in checkpoints:
        opened = open_pipeline(name, base=base)
        if opened.base is None and not base and not (opened.recipe or {}).get("base"):
            model = SweepModel(name, opened)
            models[name] = bases.setdefault(model.hash, model)
            continue
        origin = base_of(opened, base)
        own = SweepModel(base or origin.source, origin)
        models[name] = SweepModel(name, opened, bases.setdefault(own.hash, own), base)
    return models
