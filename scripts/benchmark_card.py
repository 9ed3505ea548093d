"""What a graphics card says of the memory modes of a fit, and of the update; minutes, and no model is needed.

    .venv/bin/python scripts/benchmark_card.py            # SD v1.5's shapes with random weights
    .venv/bin/python scripts/benchmark_card.py --modes split recompute --cards 12 8

It runs, each in a process of its own:

- every mode of ``model.memory`` in the Trainer, as the command line does: batch 1, 512 px, UNet and text
  encoder, AdamW8bit, float16 mixed precision, clipping 1.0, and a grid of one picture every third step. The
  peaks of encoding the photos, of a step and of a grid are what PyTorch's allocator gave out; "held" is what
  it kept from the device at most. Then the same on smaller cards (``--cards``, GiB): the allocator may take
  no more than such a card has, less what CUDA itself and other programs take on this one.
- the update in one launch against bitsandbytes' kernels on the same halves, on the pocket model: 20 steps, of
  which one overflows and all are clipped; how many weights and codes are equal to the bit.
- the update and the gradients' norm at SD v1.5's shapes: milliseconds in few launches, and tensor by tensor.

It prints a table with the card, its driver and versions, and below each peak what the plan of the same fit
forecasts. It needs an NVIDIA GPU; without one, ``--model pocket --part split`` shows on the CPU that a mode
runs.
"""

import argparse
import gc
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.planning import rehearse_mode, scene_of
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.fit.split_optimizer import SplitOptimizer
from lightning_drift.forecast.base import find_base
from lightning_drift.forecast.ledger import total
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.stable_diffusion.loading import load_stable_diffusion
from lightning_drift.stable_diffusion.sd15 import sd15_models
from lightning_drift.weights.split_weights import full_weight

GIB = 2**30
ROUND = 3  # steps on each card, with a grid after the last
UPDATE = "update"
KIND = bitsandbytes.optim.AdamW8bit


# -- a mode's peaks -------------------------------------------------------------------------------------


class Peaks(Callback):
    """Reads peaks between a fit's parts, and makes the card smaller after each round.

    It stands before the grid among the callbacks: its `on_train_batch_end` comes before the grid, and its
    `on_train_batch_start` after it.

    Args:
        device: Where the fit runs; on a CPU all peaks are 0.
        cards: Sizes of smaller cards in GiB, falling.
    """

    def __init__(self, device: torch.device, cards: Sequence[float]) -> None:
        self.device, self.gpu = device, device.type == "cuda"
        self.cards = list(cards)
        self.fits: dict[str, bool] = {}
        self.peaks = {"photos": 0.0, "step": 0.0, "grid": 0.0, "held": 0.0}
        self.seconds: list[float] = []
        self._begun = 0.0
        self._whole = True  # the card

    def _see(self, part: str) -> None:
        if self.gpu and self._whole:
            peak = torch.cuda.max_memory_allocated() / GIB
            self.peaks[part] = max(self.peaks[part], peak)
            self.peaks["held"] = max(self.peaks["held"], torch.cuda.max_memory_reserved() / GIB)
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Read the peak of what came between two steps."""
        step = trainer.global_step
        self._see("photos" if step == 0 else "grid" if step % ROUND == 0 else "step")
        if step and step % ROUND == 0:
            self._next_card(step // ROUND)
        self._begun = clock(self.device)

    def on_train_batch_end(self, *_: Any) -> None:
        """Read the peak of a step."""
        seconds = clock(self.device) - self._begun
        if self._whole:
            self.seconds.append(seconds)
        self._see("step")

    def _next_card(self, number: int) -> None:
        """The round on the last card was survived; the next begins on a smaller one."""
        if number > 1:
            self.fits[f"{self.cards[number - 2]:g}"] = True
        self._whole = False
        if number <= len(self.cards) and self.gpu:
            gc.collect()
            torch.cuda.empty_cache()
            limit_to(self.cards[number - 1])


def limit_to(card: float) -> None:
    """Let this process take what a card of so many GiB has, less what CUDA and others take on this one."""
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    limit = max(0.0, card * GIB - beside)
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))


def run_mode(mode: str, pipeline: str, cards: Sequence[float], device: torch.device) -> dict[str, Any]:
    """Fit with a memory mode.

    Returns:
        Peaks in GiB (photos, step, grid, held), the plan's forecast of the first three, the median seconds of
        a step, and for each smaller card whether the fit went on there.
    """
    gpu = device.type == "cuda"
    peaks = Peaks(device, cards)
    rounds = 1 + len(cards)
    module = DreamBooth(pipeline, optimizer=KIND, memory=mode)  # type: ignore[arg-type]
    grids = ",".join(str(ROUND * number) for number in range(1, rounds + 1))
    grid = SeedGrid(
        grids, {"dream": {"prompts": "a tree", "seeds": "0"}}, num_inference_steps=2, batch_size=1
    )
    settings: dict[str, Any] = {"accelerator": "gpu", "precision": "16-mixed"}
    if not gpu:
        half = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
        settings = {"accelerator": "cpu", "plugins": [half]}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            devices=1,
            max_steps=ROUND * rounds + 1,  # the last step shows that the last grid was survived
            max_epochs=-1,
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            logger=False,
            default_root_dir=folder,
            callbacks=[peaks, grid],
            **settings,
        )
        forecast = forecast_of(module, trainer, grid, pipeline)
        error = ""
        try:
            trainer.fit(module, datamodule=InstanceImages("coffee", cache_dir=None))
        except torch.OutOfMemoryError as caught:
            error = str(caught)
    if error and not peaks.seconds:
        raise MemoryError(error)
    fits = {f"{card:g}": peaks.fits.get(f"{card:g}", False) for card in cards}
    seconds = sorted(peaks.seconds)[len(peaks.seconds) // 2]
    told = {"mode": mode, **peaks.peaks, "forecast": forecast, "seconds": seconds, "fits": fits}
    return {**told, "error": error}


def forecast_of(module: DreamBooth, trainer: Trainer, grid: SeedGrid, pipeline: str) -> dict[str, float]:
    """The plan's peaks in GiB of a fit on a GPU (photos, step, grid)."""
    grid.setup(trainer, module, "fit")
    model = find_base(pipeline).model
    scene = scene_of(module, trainer, model, "cuda", "16-mixed")
    told = rehearse_mode(module, trainer, model, scene, math.inf, module.memory)
    peaks = {phase: total(parts) / GIB for phase, parts in told.peaks.items()}
    return {"photos": peaks["photos"], "step": peaks["step"], "grid": max(peaks["grids"], peaks["decoding"])}


# -- the update -----------------------------------------------------------------------------------------


def optimizer_of(modules: dict[str, nn.Module]) -> SplitOptimizer:
    return SplitOptimizer(KIND, modules, dict.fromkeys(modules, 2e-6), {}, MEMORY_MODES["split"])


def give_gradients(optimizer: SplitOptimizer, source: torch.Generator, scale: float) -> None:
    """Random gradients of many sizes, still scaled."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            spread = 10 ** torch.empty(weight.shape, device=weight.device).uniform_(-7, -4, generator=source)
            noise = torch.randn(weight.shape, device=weight.device, generator=source)
            weight.grad = (noise * spread * scale).to(weight.dtype)


def take_step(optimizer: SplitOptimizer, scale: Tensor, norm: Tensor, overflowed: bool) -> None:
    """A clipped step, with what a loss scaler tells the optimizer."""
    optimizer.clip(norm, 1e-3)
    optimizer.grad_scale = scale
    optimizer.found_inf = torch.full((), float(overflowed), device=scale.device)
    optimizer.step()


def compare_updates(device: torch.device, steps: int = 20) -> dict[str, float]:
    """The update in one launch against bitsandbytes' own on the pocket.

    Returns:
        Shares of weights and of 8-bit codes that are equal to the bit, and the largest distance of weights.
    """
    pair = []
    for _ in range(2):
        model = load_stable_diffusion("pocket")
        nets = {"unet": model.unet, "text_encoder": model.text_encoder}
        pair.append(optimizer_of({name: net.to(device).requires_grad_(True) for name, net in nets.items()}))
    fused, plain = pair
    if fused.fused is None:
        raise RuntimeError("the update in one launch is not to be had here; the line above says why")
    plain.fused = None
    scale = torch.tensor(65536.0, device=device)
    for step in range(steps):
        for optimizer in pair:
            give_gradients(optimizer, torch.Generator(device).manual_seed(step), 65536.0)
        norm = fused.total_norm(scale)  # the same for both: another order of its sum is another number
        for optimizer in pair:
            take_step(optimizer, scale, norm, overflowed=step == 2)
    same, numbers, distance, codes, states = 0, 0, 0.0, 0, 0
    for group, others in zip(fused.param_groups, plain.param_groups, strict=True):
        for weight, twin in zip(group["params"], others["params"], strict=True):
            gap = (full_weight(weight) - full_weight(twin)).abs()
            same, numbers = same + int((gap == 0).sum()), numbers + gap.numel()
            distance = max(distance, float(gap.max()))
    keys = [[key for group in one.inner.param_groups for key in group["params"]] for one in pair]
    for key, twin in zip(*keys, strict=True):
        state, other = fused.inner.state[key], plain.inner.state[twin]
        for name in ("state1", "state2"):
            codes += int((state[name] == other[name]).sum())
            states += state[name].numel()
    return {"weights": same / numbers, "distance": distance, "states": codes / states}


def clock(device: torch.device) -> float:
    """Seconds, after the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def time_updates(device: torch.device, rounds: int = 10) -> dict[str, float]:
    """Milliseconds of an update and of a norm at SD v1.5's shapes, in one launch and one by one."""
    models = sd15_models()
    modules: dict[str, nn.Module] = {}
    for name in ("unet", "text_encoder"):
        net = deepcopy(models[name]).to_empty(device=device).requires_grad_(True)
        for weight in net.parameters():
            weight.data.normal_(0, 0.02)
        modules[name] = net
    optimizer = optimizer_of(modules)
    give_gradients(optimizer, torch.Generator(device).manual_seed(0), 65536.0)
    scale = torch.tensor(65536.0, device=device)
    told: dict[str, float] = {}
    fused = optimizer.fused
    for name in ("one launch", "one by one"):
        optimizer.fused = fused if name == "one launch" else None
        for what, work in (
            ("norm", lambda: optimizer.total_norm(scale)),
            ("update", optimizer.step),
        ):
            if fused is None and name == "one launch":
                continue
            optimizer.grad_scale, optimizer.found_inf = scale, torch.zeros((), device=device)
            work()
            begun = clock(device)
            for _ in range(rounds):
                work()
            told[f"{what}, {name}"] = (clock(device) - begun) / rounds * 1e3
    return told


# -- the command ----------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modes", nargs="+", choices=MEMORY_MODES, default=list(MEMORY_MODES))
    parser.add_argument("--cards", nargs="*", type=float, default=[24, 12, 8], help="smaller cards, in GiB")
    parser.add_argument("--model", choices=("sd15-random", "pocket"), default="sd15-random")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()) / "sd15-random")
    parser.add_argument("--part", choices=(*MEMORY_MODES, UPDATE), help="run this alone, and print its JSON")
    options = parser.parse_args(argv)
    options.cards = sorted(options.cards, reverse=True)
    return options


def run_part(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """What one process does."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if part == UPDATE:
        return {"bits": compare_updates(device), "milliseconds": time_updates(device)}
    pipeline = "pocket" if options.model == "pocket" else str(options.workdir)
    cards = [card for card in options.cards if device.type == "cuda" and card * GIB < total_memory()]
    return run_mode(part, pipeline, cards, device)


def total_memory() -> int:
    total: int = torch.cuda.get_device_properties(0).total_memory
    return total


def driver() -> str:
    """The driver's version, as NVIDIA's tool tells it."""
    tool = shutil.which("nvidia-smi")
    command = [str(tool), "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout if tool else ""
    return said.strip().partition("\n")[0] or "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    if options.part:
        print(json.dumps(run_part(options.part, options)))
        return 0
    if not torch.cuda.is_available():
        print("error: this measures a graphics card, and PyTorch finds none here", file=sys.stderr)
        return 2
    if options.model == "sd15-random":
        write_random_sd15(options.workdir)
    words = sys.argv[1:] if argv is None else [*argv]
    told = {}
    for part in (*options.modes, UPDATE):
        command = [sys.executable, __file__, *words, "--part", part]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        told[part] = json.loads(lines[-1]) if done.returncode == 0 and lines else None
        print(f"{part}: {'measured' if told[part] else 'failed, see above'}", file=sys.stderr, flush=True)
    update = told.pop(UPDATE)
    report(told, update, options)
    return 0


def write_random_sd15(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from benchmark_fit import random_sd15

    random_sd15(folder)


def report(modes: dict[str, Any], update: Any, options: argparse.Namespace) -> None:
    """Print what was measured."""
    name, total = torch.cuda.get_device_name(), total_memory() / GIB
    print(f"{name}, {total:.1f} GiB, driver {driver()}, CUDA {torch.version.cuda}")
    print(f"torch {torch.__version__}, bitsandbytes {bitsandbytes.__version__}, Triton {triton_version()}")
    print(f"{options.model}, batch 1, UNet and text encoder, AdamW8bit, 16-mixed, clipping 1.0; peaks in GiB")
    print(table(modes, options.cards))
    if update:
        bits, times = update["bits"], update["milliseconds"]
        print("\nthe update in one launch against bitsandbytes' kernels, equal to the bit:")
        print(f"weights {bits['weights']:.4%} (largest distance {bits['distance']:.1e})")
        print(f"states {bits['states']:.4%}")
        for what, milliseconds in times.items():
            print(f"{what:>20}: {milliseconds:8.2f} ms")


def table(modes: dict[str, Any], cards: Sequence[float]) -> str:
    """The modes' table: what was measured and the forecast of each, with a column for each card."""
    columns = ("photos", "step", "grid", "held")
    heads = [*columns, "ms/step", *(f"{card:g} GB" for card in cards)]
    lines = [" ".join([f"{'':10}", *(f"{head:>8}" for head in heads)])]
    for mode, told in modes.items():
        if told is None:
            lines.append(f"{mode:10} failed")
            continue
        words = {True: "fits", False: "no", None: "-"}
        cells = [f"{told[column]:8.2f}" for column in columns] + [f"{told['seconds'] * 1e3:8.1f}"]
        cells += [f"{words[told['fits'].get(f'{card:g}')]:>8}" for card in cards]
        lines.append(" ".join([f"{mode:10}", *cells]))
        forecast = (f"{peak:8.2f}" for peak in told["forecast"].values())
        lines.append(" ".join([f"{'  forecast':10}", *forecast]))
    return "\n".join(lines)


def triton_version() -> str:
    try:
        import triton
    except ImportError:
        return "not installed"
    return str(triton.__version__)


if __name__ == "__main__":
    sys.exit(main())
