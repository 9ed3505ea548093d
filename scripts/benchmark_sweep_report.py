"""What a large sweep's plan and report take: seconds, memory, files, file-system calls, and how they grow.

    .venv/bin/python scripts/benchmark_sweep_report.py
    .venv/bin/python scripts/benchmark_sweep_report.py --cells 2000 8000 32000 --seeds 4 --side 64
    .venv/bin/python scripts/benchmark_sweep_report.py --prompts 10 --sheets 0

For each size a process of its own gives one picture to every cell of a sweep in a temporary folder, then
times the command that finds all of them: the plan, the look at each picture, the report. Pictures are random
ones of a side, with their own parameters; no model denoises. Measures are those that need no CLIP.

The last column is the exponent of growth from the size before: 1 is in proportion to the cells. Calls are
those that open, list, make, rename or delete a file or a folder, by a picture; `strace -c -f` counts all.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from PIL import Image

from lightning_drift.images.image_writer import ImageWriter
from lightning_drift.images.picture import Picture
from lightning_drift.images.png import write_png
from lightning_drift.sweep import report, sheets
from lightning_drift.sweep.data import Sweep
from lightning_drift.sweep.plan import plan
from lightning_drift.sweep.sweep_dreamer import SweepDreamer

PARTS = ("grid", "plan", "look", "thumbnails", "measures", "index", "tables", "sheets", "page")
COUNTED = ("open", "os.", "shutil.", "pathlib.")


class Watch:
    """Seconds of parts, each without the parts inside it, and calls to the file system."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.calls = 0
        self._inner = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done meanwhile."""
        begin = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            taken = time.perf_counter() - begin
            self.seconds[name] += taken - self._inner.pop()
            self._inner[-1] += taken

    def around(self, place: Any, method: str, name: str) -> None:
        """Time a function or method as a part."""
        inner: Callable[..., Any] = getattr(place, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return inner(*args, **kwargs)

        setattr(place, method, timed)

    def hear(self) -> None:
        """Count calls to the file system from here on."""

        def count(event: str, _: object) -> None:
            self.calls += event.startswith(COUNTED)

        sys.addaudithook(count)


def sweep(cells: int, chosen: argparse.Namespace) -> Sweep:
    """A sweep of so many cells, by their prompts or, where these are given, by their seeds."""
    cells = cells // chosen.scales
    prompts = chosen.prompts or max(1, cells // chosen.seeds)
    return Sweep(
        "pocket",
        prompts=[f"a tower of {number} stones" for number in range(prompts)],
        seeds=f"0-{max(1, cells // prompts) - 1}",
        guidance_scale=[2.0 + number for number in range(chosen.scales)],
        num_inference_steps=20,
        clip=None,
        sheets=chosen.sheets,
    )


def make(data: Sweep, module: SweepDreamer, folder: Path, side: int) -> None:
    """Give every cell a picture; there are sixteen different ones."""
    noise = torch.randint(0, 256, (16, side, side, 3), generator=torch.Generator().manual_seed(0))
    images = [Image.fromarray(each.byte().numpy()) for each in noise]
    import lightning_drift.common.atomic as atomic

    atomic.os.fsync = lambda _: None  # type: ignore[assignment]  # what is made up here need not last
    for number, request in enumerate(data.grid.pictures()):
        name, text = module.describe(request)
        write_png(folder / f"{name}.png", Picture(request, name, images[number % 16], text))


def measured(cells: int, chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the command on a sweep whose pictures are there, and say what it took."""
    data, module = sweep(cells, chosen), SweepDreamer()
    make(data, module, folder, chosen.side)
    watch, data = Watch(), sweep(cells, chosen)
    watch.around(Sweep, "predict_dataloader", "grid")
    watch.around(ImageWriter, "on_predict_batch_start", "look")
    watch.around(report, "_thumbnails", "thumbnails")
    watch.around(report.SweepReport, "_measure", "measures")
    watch.around(report.Index, "of", "index")
    watch.around(report.Index, "save", "index")
    watch.around(report, "summary", "tables")
    watch.around(report, "write_page", "page")
    inner = sheets.sheets

    def timed(*args: Any) -> Iterator[Any]:
        made = inner(*args)
        while True:
            with watch.part("sheets"):
                found = next(made, None)
            if found is None:
                return
            yield found

    report.sheets = timed  # type: ignore[assignment]
    watch.around(report, "save_png", "sheets")
    writer = ImageWriter(str(folder), contact_sheet=False)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(accelerator="cpu", enable_model_summary=False, callbacks=[writer], **quiet)
    before = peak()
    watch.hear()
    begin = time.perf_counter()
    with watch.part("grid"):
        _ = data.grid
    with watch.part("plan"):
        plan(data, module, folder, torch.device("cpu"))
    trainer.predict(module, datamodule=data, return_predictions=False)
    taken = time.perf_counter() - begin
    assert not writer.written
    return {
        "cells": len(data.grid.cells),
        "seconds": taken,
        "parts": watch.seconds,
        "peak": peak(),
        "grown": peak() - before,
        "files": sum(path.is_file() for path in folder.rglob("*")),
        "calls": watch.calls / cells,
        "page": (folder / report.PAGE).stat().st_size,
    }


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def growth(now: float, before: float, ratio: float) -> str:
    """The exponent of growth between two sizes."""
    return f"{math.log(now / before) / math.log(ratio):.2f}" if min(now, before) > 0.02 else "-"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 8000, 32000])
    parser.add_argument("--seeds", type=int, default=4, help="seeds of each prompt (default: 4)")
    parser.add_argument("--prompts", type=int, help="so many prompts with all the seeds that makes, instead")
    parser.add_argument("--scales", type=int, default=1, help="guidance scales (default: 1)")
    parser.add_argument("--side", type=int, default=64, help="width and height of the pictures (default: 64)")
    parser.add_argument("--sheets", type=int, default=24, help="contact sheets at most (default: 24)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure each size in a process of its own and print the table."""
    chosen = arguments(words)
    if chosen.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measured(chosen.cells[0], chosen, Path(folder))))
        return
    options = [f"--seeds={chosen.seeds}", f"--side={chosen.side}", f"--sheets={chosen.sheets}"]
    options += [f"--scales={chosen.scales}"]
    options += [f"--prompts={chosen.prompts}"] if chosen.prompts else []
    last: dict[str, Any] | None = None
    heads = ("cells", "seconds", "peak MiB", "grown MiB", "files", "calls", "page MiB", "growth")
    print("".join(f"{head:>10}" for head in heads))
    for cells in chosen.cells:
        command = [sys.executable, __file__, "--one", f"--cells={cells}", *options]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        ratio = told["cells"] / last["cells"] if last else 0.0
        grown = growth(told["seconds"], last["seconds"], ratio) if last else "-"
        sizes = (told[name] / 2**20 for name in ("peak", "grown", "page"))
        most, more, page = (f"{size:10.1f}" for size in sizes)
        line = (
            f"{told['cells']:10,}{told['seconds']:10.1f}{most}{more}{told['files']:10,}{told['calls']:10.1f}"
        )
        print(f"{line}{page}{grown:>10}")
        for part in PARTS:
            grown = growth(told["parts"][part], last["parts"][part], ratio) if last else "-"
            print(f"{'':10}{told['parts'][part]:10.2f}  {part:48}{grown:>10}", flush=True)
        last = told


if __name__ == "__main__":
    main()
