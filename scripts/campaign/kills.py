"""Kill rounds: SIGKILL at a random time, when a file appears, or at a call; then the command that goes on."""

import os
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path

from scripts.campaign.calls import Calls
from scripts.campaign.processes import Process, descendants, shared_counter
from scripts.campaign.rounds import Round, plain
from scripts.campaign.watch import Watch

WAYS = ("time", "file", "time", "call")
"""How the moment is chosen, in turn: half of the rounds at a random time."""


def kill_round(round_: Round) -> None:
    """Kill a command once or twice, go on with it, and compare."""
    dice, result = round_.dice, round_.result
    times = 2 if dice.random() < 0.3 else 1
    for attempt in range(times):
        way = WAYS[(result.number + attempt) % len(WAYS)]
        if way == "call" and not result.warm:
            way = "file"
        argv = round_.job.next(round_.place.inputs, round_.folder)
        victim = dice.choice(["all", "all", "one"]) if round_.job.command == "corridor" else "all"
        _kill(round_, argv, way, dice.random(), victim)
        if round_.result.fell[-1] == "it had ended" and round_.job.command != "export":
            round_.compare()
            return
    round_.go_on()


def _kill(round_: Round, argv: list[str], way: str, share: float, victim: str) -> None:
    """Start a command and end it at a share of its time, of its files or of its calls."""
    known, folder = round_.place.unbroken[round_.job.name], round_.folder
    note = round_.base / "call.txt"
    note.unlink(missing_ok=True)
    calls = None
    if way == "call":
        calls = Calls(shared_counter(), folder, 1 + int(share * known.calls), note)
    seconds = known.seconds + (0.0 if round_.result.warm else round_.place.imports)
    with Watch(folder) as watch:
        process = round_.start(argv, calls=calls)
        if way == "time":
            _until(process, process.began + share * seconds)
        elif way == "file":
            left = 1 + int(share * known.files)
            while left > 0 and process.poll() is None:
                left -= len(watch.new(0.02))
            time.sleep(round_.dice.choice([0.0, 0.0, 0.001, 0.003]))
        else:
            while process.poll() is None and not note.exists():
                time.sleep(0.002)
    over = process.poll() is not None and not note.exists()
    if victim == "all":
        process.kill_tree()
    elif not over:
        _kill_one(round_, process)
    status = process.wait()
    round_.result.commands.append(f"{shlex.join(argv)} -> {status}")
    if over:
        round_.result.fell.append("it had ended")
        # An export that was whole before is in its own way; what goes on replaces it.
        if status and not (status == 2 and round_.job.command == "export"):
            round_.result.losses.append(f"ended by itself with {status}: {process.output()[-400:]}")
        return
    at = f" (at {_call(note)})" if note.exists() else ""
    round_.result.fell.append(f"{way}: {round_.where()}{at}{'' if victim == 'all' else ', one process only'}")
    round_.check_torn()


def _until(process: Process, deadline: float) -> None:
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(min(0.005, max(0.0, deadline - time.monotonic())))


def _kill_one(round_: Round, process: Process) -> None:
    """Kill the corridor or one of its fits, and let the others end as they like."""
    fits = descendants(process.pid)
    chosen = round_.dice.choice([process.pid, *fits])
    if chosen == process.pid:
        process.kill_group()
        return
    with suppress(ProcessLookupError):
        os.kill(chosen, signal.SIGKILL)
    process.wait()


def _call(note: Path) -> str:
    event, _, path = note.read_text(encoding="utf-8").partition(" ")
    return f"{event} {plain(Path(path))}"
