"""The predict stage that upscales pictures with open models: Lanczos's filter, or a network of a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from lightning_drift.common.errors import UserError
from lightning_drift.common.halving import Batch
from lightning_drift.common.model_name import model_name
from lightning_drift.common.numbers import real, whole
from lightning_drift.common.out_of_memory import exhausted, forget, give_back
from lightning_drift.common.text import byte_size
from lightning_drift.images.decode import Source, UndecodableError, read_source
from lightning_drift.images.infotext import infotext
from lightning_drift.images.picture import Picture
from lightning_drift.images.profiles import profile_name
from lightning_drift.prints.failures import Failures
from lightning_drift.prints.finish import finished
from lightning_drift.prints.fixed_scale import Passes, to_tensor
from lightning_drift.prints.images import UpscaleRequest
from lightning_drift.prints.open_networks import OpenNetwork, open_network
from lightning_drift.prints.open_trial import open_costs
from lightning_drift.prints.paper import Sheet
from lightning_drift.prints.plan import Costs, Route, plan
from lightning_drift.prints.proof_report import ProofReport
from lightning_drift.prints.tiles import ALIGNED, Tiles
from lightning_drift.supir.options import DTYPES, Dtype

LANCZOS = "lanczos"
LEAST_TILE, MOST_TILE = 64, 8192


@dataclass(frozen=True)
class _Task:
    """A request on its way: its picture, the passes over it, and its paper."""

    request: UpscaleRequest
    source: Source
    passes: Passes
    sheet: Sheet | None


class OpenUpscaler(LightningModule):
    """Upscales pictures with Lanczos's filter, or with an upscaling network whose file you give.

    Networks are those that the library spandrel knows: Real-ESRGAN and other ESRGANs, SwinIR, DAT, HAT, SPAN,
    OmniSR and more, whose code has a permissive licence. They need
    ``pip install --no-deps spandrel einops``; Lanczos needs nothing.

    Every result is exactly `upscale` times its input, or has exactly the pixels of its paper
    (``data.print``), and nothing is stretched: a network goes over a picture as often as needed and the
    result is reduced by Lanczos's filter. A picture that is not enlarged does not go through it. An RGB
    profile is kept, and transparency where there is no paper. There is no chance in it: the same picture
    gives the same print.

    Args:
        upscaler: ``lanczos``, or a network: a local ``.safetensors``, ``.pth`` or ``.pt`` file, or
            ``owner/repository/file`` on the hub. Nothing in a file runs. A file of weights has a licence of
            its own: look it up before you sell prints.
        upscale: Scale of the output, 0.25 to 16; ``data.print`` takes its place.
        tile_size: A picture with a longer side goes through the network in overlapping tiles of so many
            pixels, counted before it is enlarged; a multiple of 16, 64 to 8192. 0 takes every picture whole.
        tile_overlap: Smallest overlap of neighbouring tiles in pixels, a multiple of 16, at most half of
            `tile_size`. A network that looks no farther than three eighths of it (36 of 96; enough for the
            compact ones of Real-ESRGAN) makes the same pixels as on the whole picture; others nearly.
        dtype: Precision of the network; auto is float16 on a GPU where spandrel says that the architecture
            works in it, else float32.
    """

    def __init__(
        self,
        upscaler: str = LANCZOS,
        upscale: float = 4.0,
        tile_size: int = 512,
        tile_overlap: int = 96,
        dtype: Dtype = "auto",
    ) -> None:
        super().__init__()
        real(upscale, "model.upscale", 0.25, 16)
        _check_tiles(tile_size, tile_overlap)
        self.upscaler, self.upscale, self.network_dtype = upscaler, upscale, dtype
        self.tiles = Tiles(tile_size, tile_overlap)
        self.network: OpenNetwork | None = None
        self.failures = Failures()
        self._batch = Batch(option="data.batch_size")

    # -- before the first picture ------------------------------------------------------------------

    def configure_callbacks(self) -> Sequence[Callback]:
        """What is done with the prints when all are made."""
        return [ProofReport()]

    def setup(self, stage: str) -> None:
        """Read the network, and try it on a small picture.

        Raises:
            UserError: It is missing, damaged, no upscaler of RGB pictures, or does not work in `dtype`; or
                several samples are asked for.
        """
        data = getattr(self.trainer, "datamodule", None) if self._trainer is not None else None
        if any(request.samples > 1 for request in getattr(data, "requests", ())):
            raise UserError(
                "OpenUpscaler draws no noise, so that all samples of a picture would be alike; give 1",
                "data.num_samples",
            )
        if self.upscaler == LANCZOS or self.network is not None:
            return
        network = open_network(self.upscaler)
        if self.network_dtype != "auto" and not network.takes(DTYPES[self.network_dtype]):
            raise UserError(
                f"{network.descriptor.architecture.name} does not work in {self.network_dtype}; give auto or "
                "float32",
                "model.dtype",
            )
        self.network = network

    def on_predict_start(self) -> None:
        """Forget failures of an earlier run."""
        self.failures = Failures()

    def _torch_dtype(self, network: OpenNetwork) -> torch.dtype:
        if self.network_dtype != "auto":
            return DTYPES[self.network_dtype]
        half = self.device.type != "cpu" and network.takes(torch.float16)
        return torch.float16 if half else torch.float32

    def predict_plan(self, trainer: Trainer, data: Any, dry_run: bool) -> str | None:
        """What the prints take, in a few lines, before anything is made; the command line prints it.

        Raises:
            UserError: The network is missing, damaged or of another kind.
        """
        if not dry_run:
            return None
        self.to(trainer.strategy.root_device)
        self.setup("predict")
        return plan(self, data, trainer, self._costs)

    def route(self, request: UpscaleRequest) -> Route:
        """The passes over a request's picture and its paper, for a plan.

        Raises:
            UserError: The picture cannot be read, or would be too large.
        """
        passes, sheet = self._passes(request)
        steps = tuple(passes.after(k + 1) for k in range(passes.count))
        why = f"the network enlarges {passes.scale} times" if steps else ""
        return Route(steps, passes.output, passes.box, sheet, why)

    def _passes(self, request: UpscaleRequest) -> tuple[Passes, Sheet | None]:
        if request.size is None:
            raise UserError(f"{request.path} cannot be used as a picture")
        sheet = request.paper.sheet(*request.size) if request.paper else None
        scale = self.network.scale if self.network is not None else 1
        return Passes.of(request.size, self.upscale, scale, sheet), sheet

    def _costs(self, requests: Sequence[UpscaleRequest]) -> Costs:
        network, enlarge = self.network, None
        if network is not None:
            network.to(self.device, self._torch_dtype(network))

            def enlarge(tile: Tensor) -> Tensor:
                return network.enlarge(tile.to(self.device, self._torch_dtype(network))).cpu()

        with torch.inference_mode():
            return open_costs(enlarge, self.tiles, self.device, [self._passes(each)[0] for each in requests])

    # -- pictures ----------------------------------------------------------------------------------

    def describe(self, request: UpscaleRequest) -> tuple[str, dict[str, str]]:
        """File name and PNG text of a request's picture; the text holds all that decides its pixels."""
        settings: dict[str, object] = {"Upscaler": "Lanczos"}
        if (network := self.network) is not None:
            settings = {
                "Upscaler": model_name(self.upscaler),
                "Upscaler hash": network.hash,
                "Upscaler dtype": str(self._torch_dtype(network)).removeprefix("torch."),
                "Tile size": self.tiles.size,
                **({"Tile overlap": self.tiles.overlap} if self.tiles.size else {}),
            }
        settings |= request.paper.described() if request.paper else {"Upscale": f"{self.upscale:.10g}"}
        if request.bits != "auto":
            settings["Bits"] = request.bits
        if request.profile is not None:
            settings["Profile"] = profile_name(request.profile)
        settings["Input hash"] = request.content
        return request.name, {"parameters": infotext("", "", settings)}

    def describe_beside(self, request: UpscaleRequest) -> None:
        """There is no picture beside a print: no first stage was made."""

    def predict_step(self, batch: list[UpscaleRequest], batch_idx: int = 0) -> list[Picture]:
        """Upscale a batch of requests; those that fail are reported at the end."""
        groups: dict[Passes, list[_Task]] = {}
        for request in batch:
            try:
                task = self._read(request)
            except (UserError, UndecodableError) as error:
                self.failures.add(request.path, str(error))
                continue
            groups.setdefault(task.passes, []).append(task)
        return [
            picture
            for group in groups.values()
            for picture in self._batch.map(group, self._some)
            if picture is not None
        ]

    def _read(self, request: UpscaleRequest) -> "_Task":
        source = read_source(request.path)
        request.size = source.image.size
        return _Task(request, source, *self._passes(request))

    def _some(self, part: "Sequence[_Task]") -> list[Picture | None]:
        """The pictures of a part, of one size; what does not fit by itself is skipped."""
        try:
            made = self._enlarged(part)
            return [self._finished(task, pixels) for task, pixels in zip(part, made, strict=True)]
        except UserError as error:
            for task in part:
                self.failures.add(task.request.path, str(error))
            return [None] * len(part)
        except Exception as error:
            if len(part) > 1 or (full := exhausted(error)) is None:
                raise
            free = "" if full.free is None else f" ({byte_size(full.free)} were free)"
            less = f"; try {self._less()}" if self.network is not None else ""
            self.failures.add(part[0].request.path, f"does not fit into the device's memory{less}{free}")
            forget(error)
        give_back()
        return [None]

    def _enlarged(self, part: "Sequence[_Task]") -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] after all passes of the network, float32 on the CPU.

        Raises:
            UserError: The network fails.
        """
        pixels = torch.stack([to_tensor(task.source) for task in part])
        network, passes = self.network, part[0].passes
        if network is None or not passes.count:
            return pixels
        dtype = self._torch_dtype(network)
        network.to(self.device, dtype)

        def work(tile: Tensor) -> Tensor:
            return network.enlarge(tile.to(self.device, dtype))

        tiles = sum(self.tiles.count(*passes.after(k)) for k in range(passes.count))
        with self._bar(", ".join(task.request.name for task in part), tiles) as bar:
            for _ in range(passes.count):
                pixels = self.tiles.enlarge(pixels, network.scale, work, bar.update)
        return pixels

    def _finished(self, task: "_Task", pixels: Tensor) -> Picture | None:
        """A print of what the network has made; None if it cannot be."""
        try:
            if not pixels.isfinite().all():
                raise UserError("cannot be made: the network makes no numbers of it; try model.dtype float32")
            shown = task.passes.reduced(pixels) * 2 - 1
            described = self.describe(task.request)
            return finished(task.request, task.source, shown, described, task.sheet, task.passes.box)
        except UserError as error:
            self.failures.add(task.request.path, str(error))
            return None

    def _less(self) -> str:
        """What takes less memory."""
        size = self.tiles.size // 2 // ALIGNED * ALIGNED or 512
        if size < LEAST_TILE:
            return "a smaller network"
        overlap = min(self.tiles.overlap, size // 2 // ALIGNED * ALIGNED)
        more = "" if overlap == self.tiles.overlap else f" and model.tile_overlap {overlap}"
        return f"model.tile_size {size}{more}"

    def _bar(self, name: str, tiles: int) -> Any:
        shown = self._trainer is not None and self.trainer.progress_bar_callback is not None
        hidden = not shown or not self.trainer.is_global_zero
        return tqdm(total=tiles, desc=name, unit="tile", leave=False, position=1, disable=hidden)

    def on_predict_end(self) -> None:
        """Let the network go and report what failed.

        Raises:
            UserError: Pictures could not be made; the message lists them.
        """
        self.network = None
        self.failures.report(self.trainer)


def _check_tiles(size: int, overlap: int) -> None:
    """Refuse tiles that do not overlap, or of which three would.

    Raises:
        UserError: A number is out of its range.
    """
    whole(size, "model.tile_size", 0, MOST_TILE)
    whole(overlap, "model.tile_overlap", 0, MOST_TILE)
    if not size:
        return
    if size < LEAST_TILE or size % ALIGNED:
        raise UserError(
            f"{size} is not 0 or a multiple of {ALIGNED} of at least {LEAST_TILE}", "model.tile_size"
        )
    if overlap > size // 2 or overlap % ALIGNED:
        raise UserError(
            f"{overlap} is not a multiple of {ALIGNED} of at most half of model.tile_size, {size}",
            "model.tile_overlap",
        )
