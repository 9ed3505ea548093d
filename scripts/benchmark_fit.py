"""What a training step costs, or a whole fit: ours, a bare loop and the plain reference loop, in turn.

    .venv/bin/python scripts/benchmark_fit.py                      # the pocket, on the CPU
    .venv/bin/python scripts/benchmark_fit.py --model sd15-random  # SD v1.5's shapes, random weights
    .venv/bin/python scripts/benchmark_fit.py --whole --steps 300  # from the command's start to its end

The contenders train on the same photos with the same optimizer, each in a process of its own, in turn and
several times:

- ``reference``: diffusers' script as a plain loop, `reference_loop.py`: photos read and encoded at every
  step, gradients kept and zeroed;
- ``bare``: the same step as ours without a framework: cached posteriors, gradients freed;
- ``full`` and, on a GPU, the other modes of ``model.memory``: DreamBooth, InstanceImages and the Trainer,
  with logging, without grids and checkpoints.

It prints the seconds of a step, peak memory, and their ratios; with ``sd15-random`` on a known GPU also
model FLOP utilisation, from 2.450 TFLOP a step with cached posteriors (3.567 with the autoencoder) at batch
1 and 512 px. Where there is a CUDA device it is used, with float16 autocast and a GradScaler.

With ``--whole`` the reference and the command ``lightning-drift fit`` run from start to end: imports,
loading, encoding, steps, logs, and what is there at the end. The reference then writes its pipeline (all
float32 weights, autoencoder included), and the command a checkpoint (weights of UNet and text encoder, and
the optimizer's state, so that it could go on). The medians of wall time and of the processes' CPU time are
printed: beside other programs the second is the steadier one.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for a test, which loads this file by its path

import torch
from reference_loop import clock, peak_memory, photo, warm_median

from lightning_drift.assets import PHOTOS, POCKET
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.photos.instance_images import InstanceImages
from lightning_drift.stable_diffusion.sd15 import sd15_config
from lightning_drift.weights.clip_tokenizer import sd15_tokenizer

Results = dict[str, list[dict[str, float]]]

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
SCRIPTS = Path(__file__).parent
CUDA = torch.cuda.is_available()
CONTENDERS = ("reference", "bare", *([*MEMORY_MODES] if CUDA else ["full"]))
"""The smaller modes of ``model.memory`` need float16 mixed precision, which is a GPU's."""


class Setup:
    """A model, its photos and the device, the same for bare and ours."""

    def __init__(self, pipeline: str, eight_bit: bool, memory: str = "full") -> None:
        self.device = torch.device("cuda" if CUDA else "cpu")
        if eight_bit:
            import bitsandbytes

            self.optimizer: Any = bitsandbytes.optim.AdamW8bit
        else:
            self.optimizer = torch.optim.AdamW
        self.module: Any = DreamBooth(pipeline, PROMPT, optimizer=self.optimizer, memory=memory)
        self.data = InstanceImages("coffee", cache_dir=None)
        self.half = CUDA


def bare_loop(setup: Setup, steps: int) -> list[float]:
    """The training step without a framework; the method is the module's own."""
    module, device = setup.module, setup.device
    module.configure_model()
    model = module.stable_diffusion
    module.to(device)
    module.input_ids = module.input_ids.to(device)
    for trained in module.trained().values():
        trained.train()
    dtype = torch.float16 if setup.half else torch.float32
    model.vae.to(device, dtype)
    parameters = [p for m in module.trained().values() for p in m.parameters()]
    optimizer = setup.optimizer(parameters, lr=2e-6)
    scaler = torch.amp.GradScaler(device.type, enabled=setup.half)
    with torch.no_grad():
        posteriors = [
            model.vae.encode(photo(path, module.resolution).to(device, dtype)).latent_dist
            for path in sorted((PHOTOS / "coffee").iterdir())
        ]
    times = []
    for step in range(steps):
        start = clock(device)
        posterior = posteriors[step % len(posteriors)]
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
        optimizer.zero_grad()
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


def contender(name: str, pipeline: str, steps: int, eight_bit: bool) -> dict[str, float]:
    """Run bare or ours in this process: the median seconds of a step, and the peak of memory in GiB."""
    setup = Setup(pipeline, eight_bit, name if name in MEMORY_MODES else "full")
    times = bare_loop(setup, steps) if name == "bare" else our_trainer(setup, steps)
    return {"seconds": warm_median(times), "peak": peak_memory(setup.device)}


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
    parser.add_argument("--whole", action="store_true", help="whole processes instead of steps")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()) / "sd15-random")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.eight_bit |= options.model == "sd15-random"
    options.pipeline = POCKET if options.model == "pocket" else options.workdir
    return options


def command(name: str, options: argparse.Namespace, folder: str) -> list[str]:
    """What is run for a contender, in a folder of its own."""
    eight_bit = ["--eight-bit"] if options.eight_bit else []
    if name == "reference":
        words = [str(SCRIPTS / "reference_loop.py"), f"--pipeline={options.pipeline}", f"--prompt={PROMPT}"]
        words += [f"--photos={PHOTOS / 'coffee'}", f"--side={64 if options.model == 'pocket' else 512}"]
        words += [f"--steps={options.steps}", *eight_bit]
        return words + ([f"--out={folder}/pipeline"] if options.whole else [])
    if not options.whole:
        words = [f"--model={options.model}", f"--steps={options.steps}", f"--workdir={options.workdir}"]
        return [str(SCRIPTS / "benchmark_fit.py"), *words, f"--contender={name}", *eight_bit]
    pipeline = "pocket" if options.model == "pocket" else options.pipeline
    optimizer = "bitsandbytes.optim.AdamW8bit" if options.eight_bit else "torch.optim.AdamW"
    words = [f"--model.pipeline={pipeline}", f"--model.instance_prompt={PROMPT}", f"--model.memory={name}"]
    words += [f"--model.optimizer={optimizer}", "--model.learning_rate=2e-6"]
    words += [
        f"--trainer.max_steps={options.steps}",
        f"--trainer.precision={'16-mixed' if CUDA else '32-true'}",
    ]
    # No grids and measures, and one checkpoint, at the end.
    words += ["--seed_grid.steps=", "--clip_drift.clip=null", "--step_checkpoint.steps="]
    return ["-m", "lightning_drift", "fit", *words, "--step_checkpoint.last_every_n_steps=0"]


def run(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run a contender in a process of its own: what it says, and its seconds of wall and of CPU time."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS.parent), os.getenv("PYTHONPATH", "")]),
    }
    if options.threads:
        environment["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), os.times()
        process = subprocess.run(
            [sys.executable, *command(name, options, folder)],
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        wall, after = time.perf_counter() - start, os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])  # of ended children
    last = process.stdout.strip().splitlines()[-1]
    return {"wall": wall, "cpu": cpu, **(json.loads(last) if last.startswith("{") else {})}


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    if options.contender:
        print(
            json.dumps(contender(options.contender, str(options.pipeline), options.steps, options.eight_bit))
        )
        return
    if options.model == "sd15-random":
        random_sd15(options.workdir)
    names = [name for name in CONTENDERS if not (options.whole and name == "bare")]
    results: Results = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            results[name].append(run(name, options))
    where = torch.cuda.get_device_name() if CUDA else f"{platform.processor() or platform.machine()} CPU"
    threads = options.threads or torch.get_num_threads()
    optimizer = "AdamW8bit" if options.eight_bit else "AdamW"
    print(f"{options.model} on {where}, torch {torch.__version__}, {threads} threads, batch 1, {optimizer}")
    if options.whole:
        report_whole(results, options.steps)
    else:
        report(results, where if options.model == "sd15-random" else "")


def report_whole(results: Mapping[str, list[dict[str, float]]], steps: int) -> None:
    """Print the medians of whole processes."""
    print(f"whole processes of {steps} steps; medians of {len(results['reference'])}")
    medians = {
        name: {what: statistics.median(one[what] for one in rounds) for what in ("wall", "cpu")}
        for name, rounds in results.items()
    }
    reference = medians.pop("reference")
    print(f"{'reference':>10}: {reference['wall']:7.1f} s  {reference['cpu']:7.1f} s of CPU time")
    for name, median in medians.items():
        ratios = [f"{reference[what] / median[what]:.2f}" for what in ("wall", "cpu")]
        print(f"{name:>10}: {median['wall']:7.1f} s  {median['cpu']:7.1f} s of CPU time", end="")
        print(f"  reference / {name}: {ratios[0]} times the time, {ratios[1]} times the CPU time")


def report(results: Mapping[str, list[dict[str, float]]], card: str = "") -> None:
    """Print the table; a contender's time is the best of its rounds' medians, the least disturbed one.

    Args:
        results: Of each contender and round the seconds of a step, and the peak.
        card: The device's name, where the model has the shapes of SD v1.5.
    """
    print(f"peak is {'device' if CUDA else 'process'} memory")
    best = {name: min(one["seconds"] for one in rounds) for name, rounds in results.items()}
    peak = {name: max(one["peak"] for one in rounds) for name, rounds in results.items()}
    peak_tflops = next((value for name, value in PEAK_TFLOPS.items() if name in card), None)
    for name in results:
        speed = f"{best[name] * 1e3:8.2f} ms/step  {1 / best[name]:7.2f} it/s"
        line = f"{name:>10}: {speed}  peak {peak[name]:6.2f} GiB"
        if peak_tflops:
            line += f"  MFU {(3.567 if name == 'reference' else 2.450) / best[name] / peak_tflops:6.1%}"
        print(line)
    print(f"full / bare:      {best['full'] / best['bare']:.3f} of the time (the framework's cost)")
    for name in results.keys() & MEMORY_MODES:
        print(f"reference / {name}: {best['reference'] / best[name]:.3f} times the time, ", end="")
        print(f"{peak['reference'] / peak[name]:.3f} times the memory")


if __name__ == "__main__":
    main()
