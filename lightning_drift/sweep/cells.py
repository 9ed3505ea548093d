"""Cells and requests: the product of a sweep's parameters, and the pictures it needs, in fixed batches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from lightning_drift.common.number_lists import decimals, integers
from lightning_drift.common.numbers import whole
from lightning_drift.stable_diffusion.drift_dial import Drift, read_drifts
from lightning_drift.stable_diffusion.interpolation import refuse_untrained
from lightning_drift.stable_diffusion.sampling import Sampling
from lightning_drift.stable_diffusion.sampling_drift import SamplingDrift, read_sampling_drifts
from lightning_drift.sweep.models import SweepModel
from lightning_drift.sweep.templates import MOST_PROMPTS, Prompt, expand, sampled

AXES = ("prompt", "seed", "guidance_scale", "num_inference_steps", "checkpoint", "drift", "sampling_drift")


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep's parameters.

    Attributes:
        product: Which product of the sweep it is of.
        prompt: The prompt.
        seed: Seed of the starting noise.
        guidance_scale: Guidance scale.
        num_inference_steps: DDIM steps.
        checkpoint: The model's name.
        drift: The dial: 0 the base, 1 the model, or each part's own.
        sampling_drift: How far its prediction counts beside its base's: 0 the base, 1 the model alone.
    """

    product: str
    prompt: Prompt
    seed: int
    guidance_scale: float
    num_inference_steps: int
    checkpoint: str
    drift: Drift
    sampling_drift: SamplingDrift = 1.0


@dataclass(unsafe_hash=True)  # not frozen: Lightning refuses to carry frozen ones to a device
class SweepRequest:
    """One picture to make. Cells with the same picture share a request, as many cells share a base.

    Attributes:
        model: The model; for a drift of 0 its base.
        drift: The dial, 1 for a base.
        prompt: The prompt.
        seed: Seed of the starting noise.
        guidance_scale: Guidance scale.
        num_inference_steps: DDIM steps.
        sampling_drift: How far its prediction counts beside its base's, 1 for a base.
    """

    model: SweepModel
    drift: Drift
    prompt: str
    seed: int
    guidance_scale: float
    num_inference_steps: int
    sampling_drift: SamplingDrift


@dataclass(frozen=True)
class Product:
    """Values of each parameter, to be multiplied.

    Attributes:
        name: Its name, for headings.
        prompts: Prompts.
        seeds: Seeds.
        guidance_scale: Guidance scales.
        num_inference_steps: Step counts.
        drift: Drifts.
        sampling_drift: Sampling drifts.
        checkpoints: Models by name.
    """

    name: str
    prompts: list[Prompt]
    seeds: list[int]
    guidance_scale: list[float]
    num_inference_steps: list[int]
    drift: list[Drift]
    sampling_drift: list[SamplingDrift]
    checkpoints: list[str]

    @classmethod
    def read(cls, name: str, options: Mapping[str, Any], checkpoints: list[str], option: str) -> "Product":
        """Read the options of a product.

        Args:
            name: Its name.
            options: ``prompts``, ``slots``, ``sample_prompts``, ``seeds``, ``guidance_scale``,
                ``num_inference_steps``, ``drift`` and ``sampling_drift``, as `Sweep` takes them.
            checkpoints: Names of the models.
            option: What the options' names begin with.

        Raises:
            UserError: A value is refused.
        """
        count = options["sample_prompts"]
        if count is not None:
            whole(count, f"{option}.sample_prompts", 1, MOST_PROMPTS)
        scales = decimals(options["guidance_scale"], f"{option}.guidance_scale")
        for scale in scales:
            Sampling.read(option, guidance_scale=scale)
        steps = integers(options["num_inference_steps"], f"{option}.num_inference_steps")
        for number in steps:
            Sampling.read(option, num_inference_steps=number)
        return cls(
            name,
            sampled(expand(options["prompts"], options["slots"], option), count),
            integers(options["seeds"], f"{option}.seeds"),
            scales,
            steps,
            read_drifts(options["drift"], f"{option}.drift"),
            read_sampling_drifts(options["sampling_drift"], f"{option}.sampling_drift"),
            checkpoints,
        )

    @property
    def count(self) -> int:
        """How many cells it has at most, by multiplication."""
        prompts, others = len(self.prompts) * len(self.seeds), len(self.guidance_scale) * len(self.drift)
        others *= len(self.sampling_drift)
        return prompts * others * len(self.num_inference_steps) * len(self.checkpoints)

    def cells(self, models: Mapping[str, SweepModel]) -> Iterable[Cell]:
        """All its cells; of a model that is a base itself only those with drifts of 1.

        Raises:
            UserError: A drift is for a part that a model's fit did not train.
        """
        for name in self.checkpoints:
            tuned = models[name].base is not None
            drifts: list[Drift] = self.drift if tuned else [1.0]
            sampling_drifts: list[SamplingDrift] = self.sampling_drift if tuned else [1.0]
            for drift in drifts:
                refuse_untrained(models[name].opened, drift, "data.drift")
            for drift, sampling, steps, scale, prompt, seed in product(
                drifts,
                sampling_drifts,
                self.num_inference_steps,
                self.guidance_scale,
                self.prompts,
                self.seeds,
            ):
                yield Cell(self.name, prompt, seed, scale, steps, name, drift, sampling)

    @property
    def shape(self) -> str:
        """Its size in words: ``3 prompts x 8 seeds x 10 guidance scales``."""
        counts = {
            "prompt": len(self.prompts),
            "seed": len(self.seeds),
            "guidance scale": len(self.guidance_scale),
            "step count": len(self.num_inference_steps),
            "checkpoint": len(self.checkpoints),
            "drift": len(self.drift),
            "sampling drift": len(self.sampling_drift),
        }
        shown = [
            f"{n} {name}{'s' * (n != 1)}" for i, (name, n) in enumerate(counts.items()) if n > 1 or i < 2
        ]
        return " x ".join(shown)


@dataclass
class Grid:
    """All cells of a sweep, and the pictures they need.

    Attributes:
        cells: The cells, product by product.
        requests: For each cell, its picture.
        bases: For each cell, the base's picture at the same prompt, seed, guidance and steps; or empty.
    """

    cells: list[Cell] = field(default_factory=list)
    requests: list[SweepRequest] = field(default_factory=list)
    bases: list[SweepRequest] = field(default_factory=list)

    @classmethod
    def of(cls, products: Sequence[Product], models: Mapping[str, SweepModel], with_base: bool) -> "Grid":
        """The cells of all products.

        Args:
            products: The products; a cell that two of them have is there twice, and has one picture.
            models: Models by name.
            with_base: Whether to render every cell's base too.
        """
        grid = cls()
        for each in products:
            for cell in each.cells(models):
                model = models[cell.checkpoint]
                base = model.base or model
                grid.cells.append(cell)
                untouched = _request(cell, base, 1.0, 1.0)
                drifts = cell.drift, cell.sampling_drift
                grid.requests.append(_request(cell, model, *drifts) if all(drifts) else untouched)
                if with_base:
                    grid.bases.append(untouched)
        return grid

    def pictures(self) -> list[SweepRequest]:
        """Every picture once, those of one model together, and of equal shape within."""
        order: dict[tuple[SweepModel, Drift], int] = {}  # by the model, not its hash: its files are not read
        pictures = list(dict.fromkeys([*self.requests, *self.bases]))
        for request in pictures:
            order.setdefault((request.model, request.drift), len(order))
        return sorted(pictures, key=lambda request: (order[request.model, request.drift], *shape(request)))

    def batches(self, size: int) -> list[list[SweepRequest]]:
        """The pictures in batches that one call can sample: one model, one step count, all guided or none."""
        batches: list[list[SweepRequest]] = []
        for request in self.pictures():
            last = batches[-1] if batches else []
            if last and len(last) < size and _together(last[0], request):
                last.append(request)
            else:
                batches.append([request])
        return batches


def shape(request: SweepRequest) -> tuple[str, int, bool]:
    """What pictures that are sampled together share, beside their model."""
    return f"{request.sampling_drift}", request.num_inference_steps, request.guidance_scale > 1


def _together(one: SweepRequest, other: SweepRequest) -> bool:
    return (one.model, one.drift, *shape(one)) == (other.model, other.drift, *shape(other))


def _request(cell: Cell, model: SweepModel, drift: Drift, sampling: SamplingDrift) -> SweepRequest:
    return SweepRequest(
        model, drift, cell.prompt.text, cell.seed, cell.guidance_scale, cell.num_inference_steps, sampling
    )
