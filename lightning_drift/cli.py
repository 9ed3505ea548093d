"""The command line: ``lightning-drift fit | validate | predict | corridor | export``."""

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from lightning_drift.common import ends, process, streams
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import user_path
from lightning_drift.common.meeting import together
from lightning_drift.common.numbers import shown
from lightning_drift.common.ranks import NUMBERS, first_process, launched
from lightning_drift.common.resources import shortage
from lightning_drift.common.text import command, printable
from lightning_drift.common.yaml_files import parse_yaml, read_yaml_section

if TYPE_CHECKING:
    from lightning_drift.forecast.plan import FitPlan

USAGE = """usage: lightning-drift COMMAND [options]

commands:
  fit       fine-tune a model on photos, rendering seed grids on the way
  validate  render the grids of a checkpoint again
  predict   dream: render prompts and seeds from a checkpoint, an export or a base model
  corridor  fit several learning rates, look at each after several steps, and write one page about all of it;
            corridor label: say the zones of its cells blind, and calibrate the verdict
  export    write a checkpoint as a diffusers folder, one .safetensors file for A1111, Forge and ComfyUI, a
            delta or a LoRA; --drift dials how far it goes

lightning-drift COMMAND --help lists the options of a command; fit, predict and corridor run without any.
Options of the classes: fit --model.help, fit --data.help, predict --model.help, predict --data.help.
"""


# What libraries say that a user can do nothing about.
QUIET = (
    ".*does not have many workers.*",  # the photos are in memory
    ".*Total length of `list` across ranks is zero.*",  # a fit has no validation data
    ".*module\\(s\\) in eval mode at the start of training.*",  # a frozen text encoder
    r"(?s).*(Jsonargparse|add_instantiator|instantiate_classes|skip_none).*",  # LightningCLI's old interfaces
    ".*torch.jit.script.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
)


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        The exit status: 0; 2 after an error that is the user's to mend, or where the machine ran out of
        something; 128 + n after the signal n, as a shell tells it: 130 for Ctrl-C, 143 for SIGTERM, 129 for a
        closed terminal. A corridor returns 1 if one of its fits did not reach its last step.
    """
    words = sys.argv[1:] if argv is None else argv
    outputs = streams.last() if argv is None else []
    again = command(words)
    starting = printable(f"before anything was done; start it again with: {again}")
    stop: SystemExit | None = None
    try:
        with ends.listening(starting, own_process=argv is None):
            try:
                status = _answer(words, argv)
            except SystemExit as after:  # help or a configuration was printed
                stop, status = after, 0
            sys.stdout.flush()
    except ends.Ended as end:
        notice(f"{end} {end.reached or f'before it was done; start it again with: {again}'}")
        return end.status
    lost = outputs[0].lost if outputs else None
    if lost is not None and status == 0:
        print(f"error: the output could not all be written ({lost.strerror})", file=sys.stderr)
        return 2
    if stop is not None:
        raise stop
    return status


def own_process() -> NoReturn:
    """Run the command of this process's arguments and end the process; what ``lightning-drift`` calls."""
    process.run(main)


def _answer(words: list[str], argv: list[str] | None) -> int:
    """Run a command; errors that people can mend become a line.

    Returns:
        The exit status.
    """
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"lightning-drift {version('lightning-drift')}")
        return 0
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        _check_surroundings()
        if words[0] == "export":
            with process.importing():
                from lightning_drift.export.command import main as export

            export(words[1:])
        elif words[0] == "corridor":
            with process.importing():
                from lightning_drift.corridor.command import main as corridor

            _check_configs(words)
            return corridor(words[1:], planned)
        elif words[0] in ("fit", "validate", "predict"):
            from lightning_drift.launchers.options import launcher_words

            given, rest = launcher_words(words)
            if given and words[0] != "predict":
                raise UserError(
                    "a fit runs where it is started; corridor and predict have launchers", "launcher"
                )
            if argv is None:
                sys.argv[1:] = rest  # Lightning warns of arguments beside those of the process
            _run(rest, argv and rest, given)
        else:
            raise UserError(f"{words[0]!r} is not a command; lightning-drift --help lists them")
    except UserError as error:
        _refuse(error)
        return 2
    except Exception as error:
        lacking = shortage(error)
        if not lacking:
            raise
        _refuse(lacking)
        return 2
    return 0


def _refuse(sentence: object) -> None:
    """Say an error, once for all processes that a launcher started; Lightning's children speak each."""
    if first_process() or launched() is None:
        print(f"error: {sentence}", file=sys.stderr)


def _check_surroundings() -> None:
    """Refuse to begin where no path leads anywhere, or as a process without a number.

    Raises:
        UserError: The working folder was deleted, or a launcher's variable holds no number.
    """
    for name in NUMBERS:
        if not (rank := os.environ.get(name, "0")).isdecimal():
            raise UserError(f"{shown(rank)} is not a process's number; unset it", name)
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working folder was deleted; change into another one") from None


def _run(words: list[str], argv: list[str] | None, launcher: dict[str, Any]) -> None:
    plan = planned(words, argv, launcher)
    if plan is not None and first_process():
        print(plan.describe(), flush=True)


def planned(
    words: list[str], argv: list[str] | None = None, launcher: dict[str, Any] | None = None
) -> "FitPlan | None":
    """Run a command of the Trainer; a fit's dry run ends in its plan."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    _check_configs(words)
    with process.importing():
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        from lightning_drift.lightning_cli import DriftCLI

    for name in ("lightning.pytorch", "lightning.fabric"):  # which set their own level when imported
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with together():
            # None: Lightning warns of arguments beside those of the process.
            return DriftCLI(argv if argv is not None or words == sys.argv[1:] else words, launcher).planned
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error


def _check_configs(words: list[str]) -> None:
    """Look at every configuration before the parser does, whose report names no file.

    Raises:
        UserError: One cannot be read, is not YAML, or holds no options.
    """
    from lightning_drift.common.command_line import config_values

    for value in config_values(words):
        if value.lstrip().startswith("{") and not os.path.exists(value):  # options instead of a file
            try:
                parse_yaml(value)
            except UserError as error:
                raise UserError(f"{shown(value)} {error.message}", "-c") from error
        else:
            path = user_path(value, "-c")
            section = read_yaml_section(path, "configuration", "-c")
            if not section:
                raise UserError(f"the configuration {path} holds no options", "-c")


if __name__ == "__main__":
    own_process()
