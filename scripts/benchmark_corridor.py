"""What a corridor of many fits costs its driver: seconds, memory and calls to the file system, by size.

    .venv/bin/python scripts/benchmark_corridor.py
    .venv/bin/python scripts/benchmark_corridor.py --fits 1000 --only open,look

No fit runs: the run folders are made up, with event files, configurations, checkpoints and pictures as fits
leave them, four seeds a learning rate, three milestones, 24 pictures each. What then reads them is the real
code, each measure in a process of its own. ``strace``, where it is there, counts in a second pass the calls
that open or look at a path in the corridor, or list a folder: what a shared file system is slow at.
Pictures are small: on real ones, whose bytes the page's thumbnails are made of, that part takes longer.
"""

import argparse
import dataclasses
import io
import json
import math
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

STEPS = (400, 800, 1200)
SEEDS = 4
AT_ONCE = 64
"""Fits that run when they are looked at; of them only the first milestone is there."""
_BEGIN, _END = "/benchmark-begins", "/benchmark-ends"
"""Names that no file has; asked for to mark what is measured in what ``strace`` writes."""


def rates_of(fits: int) -> list[float]:
    """As many learning rates as a corridor of so many fits has; no two are the same in their names."""
    count = max(1, fits // SEEDS)
    return [round(1 + 8 * index / count, 4) * 1e-6 for index in range(count)]


def make_corridor(folder: Path, fits: int) -> None:
    """Make up a corridor in ``folder/tb_logs/coffee/corridor``.

    Args:
        folder: An empty folder.
        fits: How many fits; a multiple of the seeds.
    """
    import torch
    import yaml
    from PIL import Image

    from lightning_drift.common.prompt_lists import slug
    from lightning_drift.corridor.plan import take_up

    plan = take_up(made_plan(folder, fits))
    checkpoints = {}
    for step in STEPS:
        checkpoints[step] = folder / f"{step}.ckpt"
        torch.save({"state_dict": {"weight": torch.zeros(1)}, "global_step": step}, checkpoints[step])
    generator = torch.Generator().manual_seed(0)
    pictures = {}
    prompts = [(group["prompts"], range(8)) for group in plan.fit["seed_grid"]["groups"].values()]
    for place in [(slug(prompt), seed) for prompt, seeds in prompts for seed in seeds]:
        rough = torch.randint(0, 256, (12, 12, 3), generator=generator, dtype=torch.uint8).numpy()
        file = io.BytesIO()
        Image.fromarray(rough).resize((160, 160), Image.Resampling.BICUBIC).save(file, "PNG")
        pictures[place] = file.getvalue()
    logs = [event_file(folder / f"log{number}", 0.9 + number / 10) for number in range(8)]
    unfinished = {row.name for row in plan.rows[-min(AT_ONCE, fits // 2) :]}
    for number, row in enumerate(plan.rows):
        run = plan.run(row)
        steps = STEPS[:1] if row.name in unfinished else STEPS
        (run / "checkpoints").mkdir(parents=True)
        (run / "drift").mkdir()
        config = {**plan.fit, "seed_everything": number % SEEDS}
        model = config["model"]["init_args"] | {"learning_rate": row.rate}
        config["model"] = config["model"] | {"init_args": model}
        (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        log = logs[number % len(logs)][len(steps)]
        (run / "events.out.tfevents.1.host.1.0").hardlink_to(log)
        for step in (0, *steps):
            (run / "drift" / f"step={step:05d}.json").write_text(json.dumps({"zone": "dreaming"}))
            grid = run / "grids" / f"step={step:05d}"
            grid.mkdir(parents=True)
            for (name, seed), picture in pictures.items():
                # What follows a picture's end changes nothing but its hash; the base's are the same.
                own = picture + (f"{row.name} {step}".encode() if step else b"")
                (grid / f"{name}_seed{seed:04d}.png").write_bytes(own)
        for step in steps:
            (run / "checkpoints" / f"step={step:05d}.ckpt").hardlink_to(checkpoints[step])
        (run / "checkpoints" / "last.ckpt").hardlink_to(checkpoints[steps[-1]])
        run.with_name(f"{run.name}.log").write_text("fit: |#####| 800/1200 [01:00<00:30]\n")


def made_plan(folder: Path, fits: int) -> Any:
    """The plan of such a corridor, with a real fit's configuration in full."""
    import yaml

    from lightning_drift.corridor.plan import make_plan

    kept = folder / "fit.yaml"
    if not kept.exists():
        groups = {f"group{index}": {"prompts": f"a tree, {index}", "seeds": "0-7"} for index in range(3)}
        words = [f"--trainer.logger.init_args.save_dir={folder / 'tb_logs'}", f"--seed_grid.groups={groups}"]
        words = ["fit", "--data.instance_dir=coffee", *words, "--print_config"]
        command = [sys.executable, "-m", "lightning_drift", *words]
        kept.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    fit = yaml.safe_load(kept.read_text())
    return make_plan(fit, rates_of(fits), list(STEPS), "corridor", list(range(SEEDS)))


def event_file(folder: Path, drift: float) -> dict[int, Path]:
    """Event files of a fit that has come to its first milestones, by how many."""
    from torch.utils.tensorboard import SummaryWriter

    from lightning_drift.drift.descriptions import DESCRIPTIONS
    from lightning_drift.drift.verdict import ZONES

    found = {}
    for count in (1, len(STEPS)):
        writer = SummaryWriter(str(folder / str(count)))
        for step in range(10, STEPS[count - 1] + 1, 10):
            for tag in ("train/loss", "train/unet_grad_norm"):
                writer.add_scalar(tag, drift / step, step)
        for step in (0, *STEPS[:count]):
            for each in DESCRIPTIONS:
                if each.tag.startswith("drift/"):
                    for part in ("drift", "drift_low", "drift_high"):
                        writer.add_scalar(f"{part}/{each.tag.removeprefix('drift/')}", drift, step)
            position = min(99.0, step / STEPS[-1] * 70 * drift)
            zone = ZONES[min(3, int(position // 25))]
            writer.add_scalar("drift/position", position, step)
            writer.add_scalar("drift/zone", ZONES.index(zone), step)
            writer.add_text("drift/verdict", f"**{zone}**, {position:.0f} of 100. It is made up.", step)
        writer.close()
        (found[count],) = (folder / str(count)).glob("events*")
    return found


# -- what is measured -------------------------------------------------------------------------------------


def opened(folder: Path, fits: int) -> tuple[Any, Callable[[], object]]:
    """The queue of all fits, and what runs."""
    from lightning_drift.corridor.fit_queue import FitQueue
    from lightning_drift.launchers.local import LocalLauncher

    plan = made_plan(folder, fits)

    def run() -> FitQueue:
        with redirect_stdout(io.StringIO()):
            return FitQueue(plan, plan.rows, LocalLauncher(["cpu"]), lambda: None)

    return plan, run


def measure_open(folder: Path, fits: int) -> Callable[[], object]:
    """What the driver does first: what is left of each fit."""
    return opened(folder, fits)[1]


def measure_look(folder: Path, fits: int, due: int = 0) -> Callable[[], object]:
    """One look at all fits that run; ``due`` of them have come to a milestone since."""
    queue: Any = opened(folder, fits)[1]()
    running = list(queue.waiting)
    queue.running = [(fit, None) for fit in running]
    queue._told -= {(fit.row, STEPS[0]) for fit in running[:due]}

    def run() -> None:
        with redirect_stdout(io.StringIO()):
            for fit in running:
                queue.looked(fit)

    return run


def measure_due(folder: Path, fits: int) -> Callable[[], object]:
    """The same when one fit has come to a milestone."""
    return measure_look(folder, fits, 1)


def measure_page(folder: Path, fits: int) -> Callable[[], object]:
    """The page and its contact sheet."""
    from lightning_drift.corridor.report import write_report

    plan = made_plan(folder, fits)

    def run() -> list[str]:
        page = plan.folder / "corridor.html"
        write_report(plan.folder, page, own=True)
        sizes = [page.stat().st_size / 2**20, page.with_suffix(".png").stat().st_size / 2**20]
        return [f"page {sizes[0]:.1f} MiB", f"sheet {sizes[1]:.1f} MiB"]

    return run


def measure_tab(folder: Path, fits: int, before: int = 0) -> Callable[[], object]:
    """The page in TensorBoard, once its own reader has read the event files."""
    from tensorboard.backend.event_processing.data_ingester import (
        DEFAULT_SIZE_GUIDANCE,
        DEFAULT_TENSOR_SIZE_GUIDANCE,
    )
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext

    from lightning_drift.tensorboard.board import Board
    from lightning_drift.tensorboard.logged import Provider
    from lightning_drift.tensorboard.own_runs import OwnRuns
    from lightning_drift.tensorboard.own_sweeps import OwnSweeps
    from lightning_drift.tensorboard.pictures import PictureFiles

    del fits
    root = folder / "tb_logs"
    events = EventMultiplexer(
        size_guidance=DEFAULT_SIZE_GUIDANCE, tensor_size_guidance=DEFAULT_TENSOR_SIZE_GUIDANCE
    )
    events.AddRunsFromDirectory(str(root))
    events.Reload()
    data = MultiplexerDataProvider(events, str(root))
    board = Board(OwnRuns(root), PictureFiles(OwnSweeps(root)))

    def run() -> list[str]:
        content = board.page(Provider(data, RequestContext(), ""), "coffee/corridor")
        assert content is not None
        return [f"answer {len(json.dumps(content)) / 2**20:.1f} MiB"]

    for _ in range(before):
        run()
    return run


def measure_again(folder: Path, fits: int) -> Callable[[], object]:
    """The same again, with nothing changed."""
    return measure_tab(folder, fits, 1)


def measure_dry_run(folder: Path, fits: int) -> Callable[[], object]:
    """The plan of what is left, without the plan of a fit."""
    from lightning_drift.corridor import dry_run
    from lightning_drift.launchers.local import LocalLauncher

    class _Stop(Exception):
        pass

    def plan_fit(words: list[str]) -> Any:
        raise _Stop

    plan = made_plan(folder, fits)

    def run() -> None:
        with suppress(_Stop):
            dry_run.describe(plan, plan.rows, LocalLauncher(["cpu"]), plan_fit, None)

    return run


MEASURES: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    "open": measure_open,
    "look": measure_look,
    "due": measure_due,
    "page": measure_page,
    "tab": measure_tab,
    "again": measure_again,
    "dry_run": measure_dry_run,
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a measure took.

    Attributes:
        seconds: By the clock.
        mebibytes: The most memory that its process had, libraries included.
        about: What it says of what it made.
        calls: Calls to the file system; None where they were not counted.
    """

    seconds: float
    mebibytes: float
    about: Sequence[str]
    calls: int | None = None


def measured(name: str, folder: Path, fits: int) -> Cost:
    """Measure in this process."""
    run = MEASURES[name](folder, fits)
    Path(_BEGIN).exists()
    begin = time.perf_counter()
    about = run()
    seconds = time.perf_counter() - begin
    Path(_END).exists()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(seconds, peak, about if isinstance(about, list) else [])


def cost(name: str, folder: Path, fits: int, count: bool) -> Cost:
    """Measure in a process of its own, and count its calls in another."""
    command = [sys.executable, __file__, "--measure", name, str(folder), str(fits)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = Cost(**json.loads(told.splitlines()[-1]))
    if not count:
        return found
    trace = folder / "trace.txt"
    subprocess.run(
        ["strace", "-f", "-qq", "-y", "-e", "trace=%file,getdents64", "-o", str(trace), *command],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    calls, counting = 0, False
    with open(trace, errors="replace") as lines:
        for line in lines:
            if _BEGIN in line:
                counting = True
            elif _END in line:
                break
            # Of a file that is open, its own state is known without asking the server.
            calls += counting and str(folder) in line and "AT_EMPTY_PATH" not in line
    trace.unlink()
    return dataclasses.replace(found, calls=calls)


def exponent(sizes: Sequence[int], values: Sequence[float]) -> str:
    """The power of the size that a cost grew with between the last two sizes."""
    if len(sizes) < 2 or min(values[-2:]) <= 0:
        return ""
    return f"grows with the power {math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fits", default="52,200,800", help="sizes, multiples of 4; by default %(default)s")
    parser.add_argument("--only", default=",".join(MEASURES), help="measures; by default all: %(default)s")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    """Make up corridors, measure and print."""
    options = arguments()
    if options.measure:
        name, folder, fits = options.measure
        print(json.dumps(dataclasses.asdict(measured(name, Path(folder), int(fits)))))
        return
    sizes = [int(each) for each in options.fits.split(",")]
    count = shutil.which("strace") is not None
    costs: dict[str, list[Cost]] = {name: [] for name in options.only.split(",")}
    for fits in sizes:
        with tempfile.TemporaryDirectory(prefix="corridor-") as place:
            folder = Path(place)
            begin = time.perf_counter()
            make_corridor(folder, fits)
            files = sum(path.is_file() for path in (folder / "tb_logs").rglob("*"))
            taken = time.perf_counter() - begin
            print(f"{fits} fits: {files / fits:.0f} files each, made up in {taken:.0f} s", flush=True)
            for name, found in costs.items():
                one = cost(name, folder, fits, count)
                found.append(one)
                calls = "" if one.calls is None else f"{one.calls:9} calls ({one.calls / fits:7.1f} a fit)"
                line = f"  {name:8}{one.seconds:9.2f} s {one.mebibytes:7.0f} MiB {calls}"
                print(f"{line}  {', '.join(one.about)}".rstrip(), flush=True)
    for name, found in costs.items():
        seconds = exponent(sizes, [each.seconds for each in found])
        calls = exponent(sizes, [each.calls or 0 for each in found]) if count else ""
        print(re.sub(r" +$", "", f"{name:8} seconds: {seconds or '-'}; calls: {calls or '-'}"))


if __name__ == "__main__":
    main()
