"""What measuring the drift costs, by mode, as a share of the fit.

    .venv/bin/python scripts/benchmark_drift.py  # the packaged default: the pocket
    .venv/bin/python scripts/benchmark_drift.py --config configs/dreambooth_sd15.yaml --instance-dir photos/

Runs a few training steps of a configuration with a milestone before and one after them, once for each mode:

- ``probe``: CLIP measures, text similarity every N steps and the language probe, as configured by default;
- ``clip``: CLIP measures alone;
- ``none``: no CLIP, the measures of plain pixels.

The loss on the photos is measured in all of them.

It prints seconds of a training step, of a milestone's pictures and of a milestone's measuring, and the share
that measuring takes of the whole fit: all milestones of ``seed_grid.steps``, the base's among them, over
``trainer.max_steps``.
"""

from __future__ import annotations

import argparse
import pkgutil
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer

from lightning_drift import assets
from lightning_drift.common.number_lists import integers
from lightning_drift.drift.clip_drift import ClipDrift
from lightning_drift.fit.dreambooth import DreamBooth
from lightning_drift.fit.seed_grid import SeedGrid
from lightning_drift.photos.instance_images import InstanceImages

DEFAULT = assets.DEFAULTS / "fit.yaml"
MODES: dict[str, dict[str, Any]] = {
    "probe": {},
    "clip": {"language_probe": False, "text_every_n_steps": 0},
    "none": {"clip": None, "language_probe": False, "text_every_n_steps": 0},
}


class Stopwatch:
    """Seconds spent in hooks, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def around(self, target: Any, hook: str, name: str) -> None:
        """Time a hook of one object, to the end of what it has the device do."""
        work: Callable[..., Any] = getattr(target, hook)

        def timed(*args: Any, **kwargs: Any) -> Any:
            _finish()
            start = time.perf_counter()
            result = work(*args, **kwargs)
            _finish()
            self.seconds.setdefault(name, []).append(time.perf_counter() - start)
            return result

        setattr(target, hook, timed)


class Laps(Callback):
    """Seconds between the beginning of a training step and its end, callbacks excluded."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        """Start."""
        _finish()
        self._start = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        """Stop: this callback comes first."""
        _finish()
        self.seconds.append(time.perf_counter() - self._start)


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(config: dict[str, Any], mode: str, steps: int, instance_dir: str | None) -> dict[str, float]:
    """Seconds of a training step, of the base's and a later milestone's pictures and measures.

    Args:
        config: A configuration of ``fit``.
        mode: One of ``MODES``.
        steps: Training steps between the two milestones.
        instance_dir: Photos; None for the configuration's.
    """
    grid = SeedGrid(**config["seed_grid"] | {"steps": [0, steps]})
    drift = ClipDrift(**config["clip_drift"] | {"steps": None, "cache_dir": None} | MODES[mode])
    laps, watch = Laps(), Stopwatch()
    for hook in ("on_train_start", "on_train_batch_end"):
        watch.around(grid, hook, f"grid.{hook}")
        watch.around(drift, hook, f"drift.{hook}")
    arguments = config["model"]["init_args"]
    module = DreamBooth(**arguments | {"optimizer": pkgutil.resolve_name(arguments["optimizer"])})
    data = config["data"]["init_args"] | ({"instance_dir": instance_dir} if instance_dir else {})
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator=config["trainer"]["accelerator"],
            devices=1,
            precision=config["trainer"]["precision"],
            gradient_clip_val=config["trainer"]["gradient_clip_val"],
            max_steps=steps,
            max_epochs=-1,
            callbacks=[laps, grid, drift],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=folder,
        ).fit(module, datamodule=InstanceImages(**data, cache_dir=None))
    between = watch.seconds["drift.on_train_batch_end"][:-1]
    return {
        "step": statistics.median(laps.seconds),
        "grid": watch.seconds["grid.on_train_batch_end"][-1],
        "base": watch.seconds["drift.on_train_start"][0],
        "milestone": watch.seconds["drift.on_train_batch_end"][-1],
        "between": sum(between) / len(between),
    }


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=DEFAULT, help="configuration of fit")
    parser.add_argument("--instance-dir", help="photos, if not the configuration's")
    parser.add_argument("--steps", type=int, default=100, help="training steps to time, 2 or more")
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    config = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    total = int(config["trainer"]["max_steps"])
    milestones = len([step for step in integers(config["seed_grid"]["steps"], "steps") if step <= total])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    print(f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{args.config.name}: {total} steps, {milestones} milestones, the base's among them\n")
    print(f"{'mode':8}{'s/step':>10}{'s/grid':>10}{'s/base':>10}{'s/milestone':>13}{'share of the fit':>19}")
    for mode in MODES:
        seconds = measure(config, mode, args.steps, args.instance_dir)
        drift = seconds["base"] + (milestones - 1) * seconds["milestone"] + total * seconds["between"]
        whole = total * seconds["step"] + milestones * seconds["grid"] + drift
        print(
            f"{mode:8}{seconds['step']:10.4f}{seconds['grid']:10.2f}{seconds['base']:10.2f}{seconds['milestone']:13.2f}"
            f"{drift / whole:18.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
