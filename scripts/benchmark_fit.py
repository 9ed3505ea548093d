"""What a training step costs: our trainer, a bare loop and the plain reference loop, in one run.

    .venv/bin/python scripts/benchmark_fit.py                      # the pocket, on the CPU
    .venv/bin/python scripts/benchmark_fit.py --model sd15-random  # SD v1.5's shapes, random weights

Three contenders train on the same photos, each in a process of its own, in turn and several times:

- ``reference``: autoencoder every step, gradients kept and zeroed, AdamW in float32, as the reference
  script does;
- ``bare``: the same step as ours without a framework: cached posteriors, gradients freed, same optimizer;
- ``ours``: DreamBooth, InstanceImages and the Trainer, with logging, without grids and checkpoints.

It prints the median seconds of a step, peak memory, and their ratios; with ``sd15-random`` on a known GPU
also model FLOP utilisation, from 2.450 TFLOP a step with cached posteriors (3.567 with the autoencoder) at
batch 1 and 512 px. Where there is a CUDA device it is used, with float16 autocast and a GradScaler.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.stable_diffusion.sd15 import sd15_config
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer

TFLOP = {"reference": 3.567, "bare": 2.450, "ours": 2.450}
# Dense float16 with float32 accumulation, from the vendors' sheets.
PEAK_TFLOPS = {
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "RTX 3060": 25.6,
}
PROMPT = "a photo of sks person"


class Setup:
    """A model, its photos and the device, the same for all contenders."""

    def __init__(self, pipeline: str, eight_bit: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if eight_bit:
            import bitsandbytes

            self.optimizer: Any = bitsandbytes.optim.AdamW8bit
        else:
            self.optimizer = torch.optim.AdamW
        self.module = DreamBooth(pipeline, PROMPT, optimizer=self.optimizer)
        self.data = InstanceImages("coffee", cache_dir=None)
        self.half = self.device.type == "cuda"


def plain_loop(setup: Setup, steps: int, reference: bool) -> list[float]:
    """The training step without a framework; the method is the module's own."""
    module, device = setup.module, setup.device
    module.configure_model()
    model = module.stable_diffusion
    assert model is not None
    module.to(device)
    module.input_ids = module.input_ids.to(device)
    for trained in module.trained().values():
        trained.train()
    dtype = torch.float16 if setup.half else torch.float32
    model.vae.to(device, dtype)
    data = setup.data
    data.resolution = module.resolution
    pixels = torch.stack([image.permute(2, 0, 1) for image in data.images()]).float() / 127.5 - 1
    parameters = [p for m in module.trained().values() for p in m.parameters()]
    optimizer = (torch.optim.AdamW if reference else setup.optimizer)(parameters, lr=2e-6)
    scaler = torch.amp.GradScaler(device.type, enabled=setup.half)
    with torch.no_grad():
        posteriors = [model.vae.encode(image[None].to(device, dtype)).latent_dist for image in pixels]
    times = []
    for step in range(steps):
        start = clock(device)
        index = step % len(pixels)
        if reference:
            with torch.no_grad():
                posterior = model.vae.encode(pixels[index][None].to(device, dtype)).latent_dist
        else:
            posterior = posteriors[index]
        noises = [torch.randn(posterior.mean.shape).to(device) for _ in range(2)]
        latents = (
            posterior.mean.float() + posterior.std.float() * noises[0]
        ) * model.vae.config.scaling_factor
        timesteps = torch.randint(1000, (1,)).to(device)
        with torch.autocast(device.type, torch.float16, enabled=setup.half):
            loss = module.loss(latents, noises[1], timesteps)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=not reference)
        if reference:
            loss.item()  # it logs every step
        times.append(clock(device) - start)
    return times


def our_trainer(setup: Setup, steps: int) -> list[float]:
    """The Trainer as the command line makes it, without grids and checkpoints."""
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    from lightning_drift.fit.progress import StepProgressBar

    class Stopwatch(Callback):
        def __init__(self) -> None:
            self.stamps: list[float] = []

        def on_train_batch_end(self, *_: Any) -> None:
            self.stamps.append(clock(setup.device))

    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="gpu" if setup.half else "cpu",
            devices=1,
            max_steps=steps,
            max_epochs=-1,
            precision="16-mixed" if setup.half else "32-true",
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=TensorBoardLogger(folder, default_hp_metric=False),
            callbacks=[stopwatch, StepProgressBar()],
        )
        trainer.fit(setup.module, datamodule=setup.data)
    return [after - before for before, after in zip(stopwatch.stamps, stopwatch.stamps[1:], strict=False)]


def clock(device: torch.device) -> float:
    """Seconds, after the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def contender(name: str, pipeline: str, steps: int, eight_bit: bool) -> dict[str, float]:
    """Run one contender in this process."""
    setup = Setup(pipeline, eight_bit)
    times = our_trainer(setup, steps) if name == "ours" else plain_loop(setup, steps, name == "reference")
    if setup.half:
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**30 if sys.platform == "darwin" else 2**20
        )
    return {"seconds": statistics.median(times[min(5, len(times) // 2) :]), "peak": peak}


def random_sd15(folder: Path) -> str:
    """SD v1.5's shapes with random weights, as a diffusers folder in float16 (2 GB)."""
    if not (folder / "model_index.json").exists():
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # drawn at once on a GPU
            unet = UNet2DConditionModel.from_config(sd15_config("unet"))
            vae = AutoencoderKL.from_config(sd15_config("vae"))
            text_encoder = CLIPTextModel(CLIPTextConfig(**sd15_config("text_encoder")))
        pipeline = StableDiffusionPipeline(
            unet=unet,
            text_encoder=text_encoder,
            vae=vae,
            tokenizer=sd15_tokenizer(),
            scheduler=DDIMScheduler.from_config(sd15_config("scheduler")),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(torch.float16).save_pretrained(folder)
    return str(folder)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("pocket", "sd15-random"), default="pocket")
    parser.add_argument("--steps", type=int, default=60, help="steps of each run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs, in turn")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for PyTorch's choice")
    parser.add_argument("--eight-bit", action="store_true", help="AdamW8bit on the pocket too")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()) / "sd15-random")
    parser.add_argument("--contender", choices=TFLOP, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    pipeline = "pocket" if options.model == "pocket" else str(options.workdir)
    eight_bit = options.eight_bit or options.model == "sd15-random"
    if options.contender:
        print(json.dumps(contender(options.contender, pipeline, options.steps, eight_bit)))
        return
    if options.model == "sd15-random":
        random_sd15(options.workdir)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in TFLOP}
    for _ in range(options.rounds):
        for name in results:
            command = [sys.executable, __file__, *sys.argv[1:], "--contender", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[name].append(json.loads(output.strip().splitlines()[-1]))
    report(results, options.model, eight_bit)


def report(results: dict[str, list[dict[str, float]]], model: str, eight_bit: bool) -> None:
    """Print the table; a contender's time is the best of its rounds' medians, the least disturbed one."""
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"{platform.processor() or platform.machine()} CPU"
    print(f"{model} on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads, batch 1")
    optimizer = "AdamW8bit" if eight_bit else "AdamW"
    memory = "device" if cuda else "process"
    print(f"bare and ours use {optimizer}; reference uses AdamW. Peak is {memory} memory")
    best = {name: min(one["seconds"] for one in rounds) for name, rounds in results.items()}
    peak = {name: max(one["peak"] for one in rounds) for name, rounds in results.items()}
    peak_tflops = next((value for name, value in PEAK_TFLOPS.items() if cuda and name in device), None)
    for name in results:
        speed = f"{best[name] * 1e3:8.2f} ms/step  {1 / best[name]:7.2f} it/s"
        line = f"{name:>10}: {speed}  peak {peak[name]:6.2f} GiB"
        if model == "sd15-random" and peak_tflops:
            line += f"  MFU {TFLOP[name] / best[name] / peak_tflops:6.1%}"
        print(line)
    print(f"ours / bare:      {best['ours'] / best['bare']:.3f} of the time (the framework's cost)")
    print(f"reference / ours: {best['reference'] / best['ours']:.3f} times the time, ", end="")
    print(f"{peak['reference'] / peak['ours']:.3f} times the memory")


if __name__ == "__main__":
    main()
