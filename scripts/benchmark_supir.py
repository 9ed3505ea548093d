"""Time SUPIR stage by stage, with peak memory, beside the arithmetic floor. No weights are needed.

    python scripts/benchmark_supir.py --random-init      # 2048x2048, 30 steps, on whatever device is there
    python scripts/benchmark_supir.py --random-init --model tiny --size 256 --steps 3    # seconds on a CPU

With ``--supir`` and ``--sdxl`` the real models are used. Random weights take as long as trained ones. The
full model has 4.8 billion parameters with its text encoders, 10 GB in 16 bits: on a CPU it needs patience.
"""

import argparse
import gc
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_drift.supir.network.find import find_sdxl, find_supir
from lightning_drift.supir.network.sdxl import SDXL_CONFIGS
from lightning_drift.supir.network.weights import (
    empty_first_stage,
    empty_network,
    empty_text_encoders,
    open_checkpoints,
)
from lightning_drift.supir.restoration import Restorer
from lightning_drift.supir.sampling.noise import AddressedNoise
from lightning_drift.supir.sampling.samplers import EdmSampling
from lightning_drift.supir.settings import Method
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GIB = 2**30

TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "unet": SDXL_CONFIGS["unet"]
    | {
        "block_out_channels": [32, 64, 64],
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [2, 4, 4],
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 96,
    },
    "vae": SDXL_CONFIGS["vae"] | {"block_out_channels": [32, 64, 32, 32]},
    "text_encoder": SDXL_CONFIGS["text_encoder"]
    | {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2},
    "text_encoder_2": SDXL_CONFIGS["text_encoder_2"]
    | {
        "hidden_size": 40,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 48,
    },
}


class RandomCheckpoints:
    """Stands for the files: models of the right shapes with random weights."""

    def __init__(self, configs: dict[str, dict[str, Any]]) -> None:
        self.sdxl = SimpleNamespace(configs=configs, tokenizer=sd15_tokenizer())

    def _random(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        module.to(dtype).to_empty(device="cpu")
        # The same four million numbers over and over: drawing billions takes longer than what is measured.
        pool = torch.randn(2**22, generator=torch.Generator().manual_seed(0)).to(dtype)
        for name, tensor in module.named_parameters():
            if tensor.ndim == 1:
                nn.init.constant_(tensor, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            flat, scale = tensor.data.view(-1), tensor[0].numel() ** -0.5
            for part in flat.split(len(pool)):
                torch.mul(pool[: len(part)], scale, out=part)
        return module.eval().requires_grad_(False)

    def network(self, dtype: torch.dtype) -> nn.Module:
        """UNet, control encoder and adapters."""
        return self._random(empty_network(self.sdxl.configs["unet"]), dtype)

    def first_stage(self, dtype: torch.dtype) -> nn.Module:
        """Autoencoder and denoise encoder."""
        return self._random(empty_first_stage(self.sdxl.configs["vae"]), dtype)

    def text_encoders(self, dtype: torch.dtype) -> nn.Module:
        """Both text encoders."""
        encoders = self._random(empty_text_encoders(self.sdxl), dtype)  # type: ignore[arg-type]
        for model in (encoders.clip_l, encoders.bigg.text_model):
            model.embeddings.position_ids = torch.arange(77).expand(1, -1)
        return encoders


def count_flops(configs: dict[str, dict[str, Any]], size: int, steps: int) -> dict[str, float]:
    """Floating-point operations of each stage, counted on the meta device, where nothing is computed."""
    side = size // 8
    unet = configs["unet"]
    network, stage = empty_network(unet), empty_first_stage(configs["vae"])
    with torch.device("meta"), torch.no_grad():
        latent, image = torch.empty(2, 4, side, side), torch.empty(1, 3, size, size)
        context = torch.empty(2, 77, unet["cross_attention_dim"])
        vector = torch.empty(2, unet["projection_class_embeddings_input_dim"])
        with FlopCounterMode(display=False) as step:
            network(latent, torch.empty(2, dtype=torch.long), context, vector, latent)
        with FlopCounterMode(display=False) as encode:
            stage.encode_degraded(image)
        with FlopCounterMode(display=False) as decode:
            stage.decode(latent[:1])
    coding, decoding = float(encode.get_total_flops()), float(decode.get_total_flops())
    return {
        "stage one": coding + decoding,
        "step": float(step.get_total_flops()),
        "sampling": float(step.get_total_flops()) * steps,
        "decode": decoding,
    }


class Clock:
    """Wall-clock seconds and peak memory between marks."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        """Begin to measure."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self.began = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        """Seconds since the start, and the peak in GiB (on a CPU that of the process so far)."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device) / GIB
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        return time.perf_counter() - self.began, peak


def multiply_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product on the device."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    clock, times = Clock(device), 5
    for _ in range(times):
        a @ b
    return times * 2 * side**3 / clock.stop()[0]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--random-init", action="store_true", help="random weights instead of files")
    parser.add_argument("--model", choices=["full", "tiny"], default="full", help="size of the random model")
    parser.add_argument("--supir", help="SUPIR's weights")
    parser.add_argument("--sdxl", help="the SDXL base")
    parser.add_argument("--size", type=int, default=2048, help="edge of the square output, a multiple of 32")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument(
        "--memory",
        nargs="+",
        default=["auto"],
        choices=["auto", "full", "offload", "sequential", "stream", "8bit"],
        help="where weights are kept; several are measured one after the other",
    )
    parser.add_argument(
        "--card", nargs="+", type=float, help="leave so many GiB of the GPU free, as on a smaller card"
    )
    parser.add_argument("--tile-size", type=int, default=0, help="window edge in pixels; 0 samples it whole")
    parser.add_argument("--tile-batch", type=int, default=1)
    parser.add_argument("--diff-dtype", choices=DTYPES, help="default: float16 on a GPU, float32 on a CPU")
    parser.add_argument("--ae-dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--control-scale", type=float, default=0.9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--images", type=int, default=1, help="restore so many; the last is reported")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    if options.size % 32:
        parser.error(f"--size: {options.size} is not a multiple of 32")
    if options.random_init == bool(options.supir and options.sdxl):
        parser.error("give either --random-init, or --supir and --sdxl")
    return options


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    if options.card and not gpu:
        sys.exit("error: --card is about a GPU's memory")
    method = Method(
        sampling=EdmSampling(steps=options.steps, control_scale=options.control_scale),
        prompt="sharp textures, fine grain, rich color depth",
        negative_prompt="blurry, low quality, jpeg artifacts",
        tile=options.tile_size // 8,
        stride=options.tile_size // 16,
        tile_batch=options.tile_batch,
        diff_dtype=DTYPES[options.diff_dtype or ("float16" if gpu else "float32")],
        ae_dtype=DTYPES[options.ae_dtype or ("bfloat16" if gpu else "float32")],
        memory=options.memory[0],
        compile=options.compile,
    )
    checkpoints: Any
    if options.random_init:
        checkpoints = RandomCheckpoints(dict(SDXL_CONFIGS) if options.model == "full" else TINY_CONFIGS)
    else:
        checkpoints = open_checkpoints(
            find_supir(options.supir, "--supir"), find_sdxl(options.sdxl, "--sdxl")
        )

    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; network {method.diff_dtype}, autoencoder {method.ae_dtype}")
    flops = count_flops(checkpoints.sdxl.configs, options.size, options.steps)
    with torch.no_grad():
        rate = multiply_rate(device, method.diff_dtype)
        for card, level in product(options.card or [0.0], options.memory):
            ballast = fill(device, card)
            total = measure(options, device, replace(method, memory=level), checkpoints, card)
            del ballast
            report_floor(flops, rate, method, total)
            gc.collect()
            if gpu:
                torch.cuda.empty_cache()


def fill(device: torch.device, card: float) -> Any:
    """Take a GPU's memory until no more is left than on a card of `card` GiB; 0 leaves it whole."""
    if not card:
        return None
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    used = total - free  # a desktop's share on a real card is not less
    return torch.empty(max(0, int(free - (card * GIB - used))), dtype=torch.uint8, device=device)


def measure(
    options: argparse.Namespace, device: torch.device, method: Method, checkpoints: Any, card: float
) -> float:
    """Restore pictures, print where the time went, and return the seconds of a picture."""
    ballast = torch.cuda.memory_allocated(device) / GIB if card else 0.0
    restorer = Restorer(checkpoints, method, device)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, options.size, options.size, generator=generator) * 2 - 1
    rows: list[tuple[str, float, float]] = []

    clock = Clock(device)
    restorer.prompts.encode([""])
    rows.append(("prompts (load, encode, drop)", *clock.stop()))
    clock.start()
    restorer.first_stage()
    rows.append(("autoencoder (load)", *clock.stop()))
    for _ in range(options.images):
        del rows[2:]
        clock.start()
        restorer.stage_one(image, AddressedNoise(0, 0, device), key="picture")
        rows.append(("stage one: encode, decode", *clock.stop()))
        clock.start()
        restorer.network()
        rows.append(("network (load)", *clock.stop()))
        marks: list[float] = []

        def mark(marks: list[float] = marks) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            marks.append(time.perf_counter())

        clock.start()
        began = clock.began
        out = restorer.restore(image, [[""]], [AddressedNoise(0, 0, device)], ["picture"], mark)
        seconds, peak = clock.stop()
        rows.append((f"sampling, {options.steps} steps", marks[-1] - began, peak))
        rows.append(("  a step", (marks[-1] - marks[0]) / max(1, len(marks) - 1), peak))
        rows.append(("decode, colour fix", began + seconds - marks[-1], peak))
        assert out.shape == image.shape
    where = f" on a card of {card:g} GiB" if card else ""
    print(f"{options.size}x{options.size}, memory: {restorer.placement.level}{where}")
    kind = "" if device.type == "cuda" else " (host)"
    for title, seconds, peak in rows:
        print(f"{title:32} {seconds:9.3f} s   peak {peak - ballast:6.2f} GiB{kind}")
    total = sum(seconds for title, seconds, _ in rows if title.startswith(("stage", "sampling", "decode")))
    print(f"{'an image, once loaded':32} {total:9.3f} s", flush=True)
    return total


def report_floor(flops: dict[str, float], rate: float, method: Method, total: float) -> None:
    """Print how long the arithmetic alone takes, and the share that it is of the time measured."""
    print(
        f"\narithmetic floor, untiled, at {rate / 1e12:.2f} TFLOP/s, a matrix product in {method.diff_dtype}:"
    )
    for title in ("stage one", "step", "sampling", "decode"):
        print(f"{title:32} {flops[title] / rate:9.3f} s   {flops[title] / 1e12:.3f} TFLOP")
    floor = sum(flops[title] for title in ("stage one", "sampling", "decode")) / rate
    print(f"{'an image':32} {floor:9.3f} s   measured / floor = {total / floor:.1f}\n")


if __name__ == "__main__":
    main()
