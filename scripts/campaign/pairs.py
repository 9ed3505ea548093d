"""Pair rounds: two processes at once in one place; one owns it, nothing is damaged."""

import shlex
import time
from collections.abc import Sequence

from scripts.campaign.compare import compare, files, partials
from scripts.campaign.events import damage
from scripts.campaign.jobs import CACHES, RUN
from scripts.campaign.processes import Process, end_orphans
from scripts.campaign.rounds import Round

PAIRS = (
    "two fresh fits",
    "two fits of one name",
    "a resume beside a running fit",
    "two resumes of one run",
    "two corridors",
    "two predicts",
    "two sweeps",
    "two prints",
    "two exports",
    "two exports over one",
)
JOB_OF = {
    "two corridors": "corridor",
    "two predicts": "predict",
    "two sweeps": "sweep",
    "two prints": "prints",
    "two exports": "export-safetensors",
    "two exports over one": "export-over-folder",
}
"""The job of a pair; a fit where none is named."""


def pair_round(round_: Round) -> None:
    """Run two commands at once, and compare what both leave with the unbroken run."""
    pair = PAIRS[round_.result.number % len(PAIRS)]
    job, inputs, dice = round_.job, round_.place.inputs, round_.dice
    seconds = round_.place.unbroken[job.name].seconds
    delay = dice.choice([0.0, 0.0, dice.random() * 0.1, dice.random()]) * seconds
    first = second = job.first(inputs)
    if pair == "two fits of one name":
        first = second = [*first, "--trainer.logger.init_args.version=one"]
    elif pair == "a resume beside a running fit":
        second = ["fit", "-c", f"{RUN}/config.yaml", "--ckpt_path=last"]
    elif pair == "two resumes of one run":
        _half_a_run(round_)
        first = second = ["fit", "-c", f"{RUN}/config.yaml", "--ckpt_path=last"]
    one = round_.start(first)
    if pair == "a resume beside a running fit":
        while one.poll() is None and not any(round_.folder.glob("tb_logs/coffee/*/checkpoints/*.ckpt")):
            time.sleep(0.005)
        delay *= 0.3
    time.sleep(delay)
    two = round_.start(second)
    statuses = [round_.ended(process, argv) for process, argv in ((one, first), (two, second))]
    round_.result.fell.append(f"{pair}: {statuses[0]} and {statuses[1]}")
    end_orphans()
    _check_statuses(round_, pair, statuses, (one, two))
    if job.command == "fit":
        _check_runs(round_)
    else:
        round_.compare()


def _half_a_run(round_: Round) -> None:
    """A fit that was killed between two checkpoints."""
    argv = round_.job.first(round_.place.inputs)
    process = round_.start(argv)
    while process.poll() is None and not any(round_.folder.glob("tb_logs/coffee/*/checkpoints/last.ckpt")):
        time.sleep(0.002)
    process.kill_tree()
    round_.result.commands.append(f"{shlex.join(argv)} -> killed after its first checkpoint")


def _check_statuses(round_: Round, pair: str, statuses: Sequence[int], processes: Sequence[Process]) -> None:
    """One ends well; the other too, or in a sentence that is no loss of the first."""
    if 0 not in statuses:
        round_.result.losses.append(f"{pair}: neither ends well")
    for status, process in zip(statuses, processes, strict=True):
        last = process.output().strip().splitlines()[-1]
        if status not in (0, 2) or (status == 2 and "error: " not in last):
            round_.result.losses.append(
                f"{pair}: one ends with {status} and without a sentence: {last[:300]}"
            )
        elif status == 2:
            round_.result.commands.append(f"  which said {last[:300]}")


def _check_runs(round_: Round) -> None:
    """Every run that was begun is finished and equal to the unbroken one; its event files are whole."""
    reference = round_.place.reference(round_.job) / RUN
    result = round_.result
    runs = sorted(path.parent for path in round_.folder.glob("tb_logs/coffee/*/config.yaml"))
    if not runs:
        result.losses.append("there is no run")
    if strays := [
        str(path.relative_to(round_.folder))
        for path in round_.folder.glob("tb_logs/coffee/*")
        if path.is_dir() and path not in runs
    ]:
        result.losses.append(f"folders without a run: {', '.join(strays)}")
    for run in runs:
        name = run.relative_to(round_.folder)
        result.losses += [f"{name}: {loss}" for loss in compare(reference, run)]
        killed = "two resumes" in result.fell[-1]
        for path in files(run):
            if path.name.startswith("events.out") and (reason := damage(path, killed)):
                result.losses.append(f"{path.relative_to(round_.folder)}: {reason}")
    left = partials(round_.folder)
    result.left += [name for name in left if name.startswith(CACHES)]
    result.losses += [f"{name} was left behind" for name in left if not name.startswith(CACHES)]
