"""A campaign of random ends against the real commands, and a table of what was lost.

    .venv/bin/python scripts/campaign --folder /tmp/campaign        # 60 rounds of all kinds
    .venv/bin/python scripts/campaign --folder F --kind kill --rounds 300 --workers 2 --report kills.json
    .venv/bin/python scripts/campaign --folder F --kind kill --seed 0 --only 17    # one round again

Kinds:

- ``kill``: SIGKILL to a command and all that it started: at a random time, at the instant a file appears,
  or at the n-th call that changes a file; sometimes twice. Then the command that goes on, until it ends well.
- ``term``: SIGTERM, SIGINT or SIGHUP at a random moment: the status, the sentence, and the command that it
  names.
- ``pair``: two processes at once on one run, one folder or one file.
- ``torn``: two processes write one name, a reader looks 10,000 times.

After each round every tensor, picture, point, page and text is compared with an unbroken run's, bit by bit.
The commands are fit, corridor, predict, sweep, prints (all with the models that come with the package) and
exports. Most processes are forked from one that has imported everything (the code from there on is the
program's own); every tenth round starts the installed program. Moments follow from seed and round; a random
time falls where the machine is by then.

The table counts rounds, those with real processes, ends, partial files left in shared caches, and rounds
with a loss. It ends with 1 if anything was lost, and names the command that repeats the round. Linux only.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scripts.campaign.jobs import JOBS, Job
from scripts.campaign.kills import kill_round
from scripts.campaign.pairs import JOB_OF, PAIRS, pair_round
from scripts.campaign.processes import (
    HungError,
    begin_worker,
    end_orphans,
    import_everything,
)
from scripts.campaign.rounds import Place, Result, Round, make_references
from scripts.campaign.terms import term_round
from scripts.campaign.torn import torn_reads

SHARES = {"kill": 0.7, "term": 0.15, "pair": 0.15}
ROUNDS = {"kill": kill_round, "term": term_round, "pair": pair_round}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="an empty or new folder for everything")
    parser.add_argument("--kind", choices=[*SHARES, "torn", "all"], default="all")
    parser.add_argument("--rounds", type=int, default=60, help="rounds in all; torn reads come on top")
    parser.add_argument("--seed", type=int, default=0, help="what the dice follow from")
    parser.add_argument("--workers", type=int, default=1, help="rounds side by side")
    parser.add_argument("--real", type=float, default=0.1, help="share of rounds with real processes")
    parser.add_argument("--reads", type=int, default=10_000, help="reads of the torn kind")
    parser.add_argument("--jobs", default="", help="only these, separated by commas")
    parser.add_argument("--only", type=int, help="only the round of this number, of one kind")
    parser.add_argument("--report", type=Path, help="a JSON file with every round")
    args = parser.parse_args(argv)
    if args.only is not None and args.kind in ("all", "torn"):
        parser.error("--only repeats a round of one --kind")
    names = [job.name for job in JOBS]
    if unknown := [name for name in args.jobs.split(",") if name and name not in names]:
        parser.error(f"there is no job {unknown[0]}; there are {', '.join(names)}")
    return args


def schedule(kind: str, rounds: int) -> list[tuple[str, int]]:
    """The rounds by kind and number."""
    if kind == "torn":
        return []
    if kind != "all":
        return [(kind, number) for number in range(rounds)]
    shares = {"kill": round(SHARES["kill"] * rounds), "term": round(SHARES["term"] * rounds)}
    shares["pair"] = rounds - sum(shares.values())
    return [(name, number) for name, count in shares.items() for number in range(count)]


def job_of(kind: str, number: int, jobs: Sequence[Job]) -> Job | None:
    """The job of a round: each as often as its weight says; of a pair its own, if it is among the jobs."""
    if kind == "pair":
        name = JOB_OF.get(PAIRS[number % len(PAIRS)], "fit")
        return next((job for job in jobs if job.name == name), None)
    order = [job for job in jobs for _ in range(job.weight)]
    # Neighbours differ, so that few rounds meet all jobs.
    order = list(jobs) + random.Random(0).sample(order, len(order))
    return order[number % len(order)]


def play(place: Place, kind: str, number: int, job: Job, seed: int, real: float) -> Result:
    """Play one round."""
    dice = random.Random(f"{seed} {kind} {number}")
    result = Result(kind, number, job.name, warm=dice.random() >= real)
    began = time.monotonic()
    round_ = Round(place, result, job, dice)
    try:
        ROUNDS[kind](round_)
    except HungError:
        pass
    except Exception:  # the campaign's own fault, or a file that no reader takes
        result.losses.append(f"the round cannot be judged: {traceback.format_exc()[-1500:]}")
    round_.end()
    result.seconds = round(time.monotonic() - began, 2)
    return result


def work(place: Place, rounds: int, results: Path, jobs: Sequence[Job], args: argparse.Namespace) -> None:
    """A worker: take rounds from a pipe until it is empty."""
    begin_worker()
    try:
        while item := os.read(rounds, 8):
            index, number = struct.unpack("<ii", item)
            kind = [*SHARES][index]
            job = job_of(kind, number, jobs)
            if job is not None:
                result = play(place, kind, number, job, args.seed, args.real)
                with open(results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(result.values()) + "\n")
    finally:
        end_orphans()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign."""
    args = arguments(argv)
    if args.folder.exists() and any(args.folder.iterdir()):
        print(f"error: {args.folder} is not empty", file=sys.stderr)
        return 2
    root = args.folder.resolve()
    root.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    results: list[Result] = []
    jobs = [job for job in JOBS if not args.jobs or job.name in args.jobs.split(",")]
    imports = import_everything()
    if todo := schedule(args.kind, args.rounds if args.only is None else args.only + 1):
        if args.only is not None:
            todo = [(kind, number) for kind, number in todo if number == args.only]
        place = prepare(root, jobs, imports)
        print(
            f"references made in {time.monotonic() - began:.0f} s: "
            + ", ".join(
                f"{name} {known.seconds:.1f} s, {known.files} files, {known.calls} calls"
                for name, known in place.unbroken.items()
            ),
            flush=True,
        )
        results += run_rounds(place, todo, jobs, args)
    if args.kind in ("torn", "all") and args.only is None and args.reads:
        results += torn_reads(root, args.reads)
    shutil.rmtree(root / "torn", ignore_errors=True)
    return report(results, args, time.monotonic() - began)


def prepare(root: Path, jobs: Sequence[Job], imports: float) -> Place:
    """Make the references in a process of their own, which computes; this one stays as it was imported."""
    known = root / "unbroken.json"
    pid = os.fork()
    if not pid:
        status = 1
        try:
            begin_worker()
            place = make_references(root, jobs, imports)
            values = {name: vars(unbroken) for name, unbroken in place.unbroken.items()}
            known.write_text(json.dumps(values), encoding="utf-8")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            end_orphans()
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("error: the unbroken runs cannot be made")
    return Place.read(root, imports, json.loads(known.read_text(encoding="utf-8")))


def run_rounds(
    place: Place, todo: Sequence[tuple[str, int]], jobs: Sequence[Job], args: argparse.Namespace
) -> list[Result]:
    """Share the rounds out over workers, and tell each as it ends."""
    lines = place.root / "results.jsonl"
    lines.touch()
    reading, writing = os.pipe()
    os.write(writing, b"".join(struct.pack("<ii", [*SHARES].index(kind), number) for kind, number in todo))
    os.close(writing)
    workers = set()
    for _ in range(args.workers):
        pid = os.fork()
        if not pid:
            try:
                work(place, reading, lines, jobs, args)
            except SystemExit:
                pass  # the campaign was ended
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        workers.add(pid)
    os.close(reading)
    results: list[Result] = []
    try:
        with open(lines, encoding="utf-8") as file:
            while True:
                over = not workers
                for line in file:
                    result = Result(**json.loads(line))
                    results.append(result)
                    tell(result, len(results), len(todo))
                if over:
                    return results
                time.sleep(0.2)
                workers -= {pid for pid in workers if os.waitpid(pid, os.WNOHANG)[0]}
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def tell(result: Result, done: int, of: int) -> None:
    """One line of a round, and its losses."""
    real = "" if result.warm else " real"
    fell = "; ".join(result.fell)
    print(
        f"[{done}/{of}] {result.kind} {result.number} {result.job}{real} {result.seconds:.0f} s: {fell}: "
        + (f"{len(result.losses)} LOST" if result.losses else "nothing lost"),
        flush=True,
    )
    for loss in result.losses:
        print(f"    {loss}", flush=True)


def report(results: Sequence[Result], args: argparse.Namespace, seconds: float) -> int:
    """Print the tables, write the report, and say how a loss is repeated."""
    print(f"\n{'kind':6}{'job':22}{'rounds':>8}{'real':>6}{'ends':>6}{'left':>6}{'lost':>6}")
    for kind, job in sorted({(result.kind, result.job) for result in results}):
        own = [result for result in results if (result.kind, result.job) == (kind, job)]
        ends, left = sum(len(result.fell) for result in own), sum(len(result.left) for result in own)
        real, bad = sum(not result.warm for result in own), sum(bool(result.losses) for result in own)
        print(f"{kind:6}{job:22}{len(own):8}{real:6}{ends:6}{left:6}{bad:6}")
    print("\nwhere the kills fell:")
    places = Counter(
        f"{result.job.partition('-')[0]:9} {fell.partition(' (at')[0]}"
        for result in results
        if result.kind == "kill"
        for fell in result.fell
    )
    for name, count in sorted(places.items()):
        print(f"{count:5} {name}")
    lost = [result for result in results if result.losses]
    for result in lost:
        print(f"\nLOST in {result.kind} {result.number} ({result.job}), seed {args.seed}:")
        print("".join(f"  {line}\n" for line in [*result.losses, *result.commands, *result.fell]), end="")
        words = ["--kind", result.kind, "--seed", str(args.seed), "--only", str(result.number)]
        words += ["--jobs", args.jobs] if args.jobs else []
        words += ["--real", str(args.real), "--folder", "NEW"]
        if result.kind != "torn":
            print(f"  again: .venv/bin/python scripts/campaign {shlex.join(words)}")
    print(f"\n{len(results)} rounds in {seconds:.0f} s, seed {args.seed}: {len(lost)} with a loss")
    if args.report is not None:
        values = {"seed": args.seed, "seconds": round(seconds), "rounds": [r.values() for r in results]}
        args.report.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 1 if lost else 0
