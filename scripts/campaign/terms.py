"""Term rounds: SIGTERM, SIGINT or SIGHUP at a random moment; the status, the sentence, and what goes on."""

import re
import shlex
import signal
import time

from scripts.campaign.rounds import Round
from scripts.campaign.watch import Watch

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GO_ON = re.compile(r"lightning-drift: .*?(?:go on|start)\b.*?: (lightning-drift .+)")
_SAID = re.compile(
    r"(?m)^.*(lightning-drift|error): .*(stopped|interrupted|ended|hung up|terminated).*$", re.I
)


def term_round(round_: Round) -> None:
    """End a command by a signal, run the line that it prints, and compare."""
    dice, result, known = round_.dice, round_.result, round_.place.unbroken[round_.job.name]
    number = SIGNALS[result.number % len(SIGNALS)]
    argv, share = round_.job.first(round_.place.inputs), dice.random()
    seconds = known.seconds + (0.0 if result.warm else round_.place.imports)
    with Watch(round_.folder) as watch:
        process = round_.start(argv)
        if result.number % 2:
            left = 1 + int(share * known.files)
            while left > 0 and process.poll() is None:
                left -= len(watch.new(0.02))
        else:
            while process.poll() is None and time.monotonic() < process.began + share * seconds:
                time.sleep(0.005)
    over = process.poll() is not None
    # A terminal sends Ctrl-C and its own end to the whole group; kill sends SIGTERM to one process.
    process.signal(number, group=number is not signal.SIGTERM)
    status = round_.ended(process, argv)
    result.fell.append("it had ended" if over else f"{number.name}: {round_.where()}")
    text = process.output()
    if status in (-number, 128 + number):
        _check_words(round_, text, status, number)
    elif status:
        result.losses.append(f"{number.name} ends it with {status}, not {128 + number}: {text[-400:]}")
    else:
        # It was done by then, and everything has to be there.
        round_.compare()
    round_.check_torn()
    if not status:
        return
    said = _GO_ON.findall(text)
    if not said:
        round_.go_on()
        return
    words = shlex.split(said[-1])[1:]
    again = round_.start(words)
    if round_.ended(again, words):
        result.losses.append(f"the command that it names fails: {said[-1]}: {again.output()[-400:]}")
    round_.compare()


def _check_words(round_: Round, text: str, status: int, number: signal.Signals) -> None:
    """An ended command says so in one line; one that was not yet listening had nothing to say."""
    asleep = status == -number and not any(round_.folder.iterdir()) and len(text.strip().splitlines()) == 1
    if asleep:
        round_.result.fell[-1] += ", before it listened"
        return
    # Once all is written and said, a signal may end it without another word.
    if status == -number and not round_.job.losses(round_.place.reference(round_.job), round_.folder):
        round_.result.fell[-1] += ", when all was done"
        return
    if not _SAID.search(text):
        round_.result.losses.append(f"{number.name}: no line says that it was stopped: {text[-300:]}")
    elif not _GO_ON.search(text):
        round_.result.losses.append(f"{number.name}: no line says how to go on: {text[-300:]}")
