"""The ``corridor`` command: fit several learning rates, or write the page of what was fitted."""

import io
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_drift.common import ends
from lightning_drift.common.command_line import (
    Text,
    TextParser,
    mark_texts,
    option_values,
    plain,
    text_options,
)
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import check_writable, user_path
from lightning_drift.common.lock import FolderLock
from lightning_drift.common.numbers import whole
from lightning_drift.common.text import command, printable
from lightning_drift.corridor.given import fit_config, own_words, read_configs
from lightning_drift.corridor.plan import (
    check_corridor_name,
    joined,
    learning_rates,
    make_plan,
    milestones,
    training_seeds,
)
from lightning_drift.corridor.report import write_report
from lightning_drift.corridor.run import run_fits, run_search
from lightning_drift.launchers.job import Launcher
from lightning_drift.launchers.options import NAMES, launcher_help, launcher_words, read_launcher
from lightning_drift.photos.folder import find_folder, find_pictures

_PlanFit = Callable[..., Any]
"""A `PlanFit` of `dry_run`, whose import takes seconds that only a plan needs."""

USAGE = """usage: lightning-drift corridor [-c FILE] [--lr RATES] [--steps STEPS] [--seeds SEEDS] [--dry_run]
                                [options of fit]
       lightning-drift corridor --search N --lr LOWEST,HIGHEST [--steps STEPS] [options as above]
       lightning-drift corridor fit FOLDER RUN
       lightning-drift corridor report FOLDER [--to FILE]
       lightning-drift corridor soup FOLDER [--clip CLIP] [--base BASE]
       lightning-drift corridor label FOLDER [FOLDER ...] [--to FILE]

"""


def corridor(
    fit: list[str],
    recipe: dict[str, Any],
    lr: str | None = None,
    steps: str | None = None,
    seeds: str | None = None,
    devices: str | None = None,
    name: str | None = None,
    search: int | None = None,
    launcher: Mapping[str, Any] | None = None,
    plan_fit: _PlanFit | None = None,
    card: float | None = None,
) -> int:
    """Fit every learning rate once, look at it after each of the steps, and write one page about all of it.

    The learning rate is constant, so one fit per rate covers all its steps. What is finished is skipped, what
    was stopped goes on, and a fit that fails becomes a failed cell. Any option of ``lightning-drift fit``
    may follow and holds for all fits. With several seeds every learning rate is fitted once with each, and
    the page says what of a verdict is the recipe and what the seed. A configuration file may hold a section
    ``corridor`` with ``lr``, ``steps``, ``seeds``, ``devices``, ``name``, ``search``, ``launcher`` and
    ``recipe``, a configuration beside it to begin from.

    Args:
        fit: Options of the fits.
        recipe: The configurations' ``corridor`` sections, joined.
        lr: Learning rates, such as ``1e-6,2e-6,4e-6``.
        steps: Optimizer steps to look at, such as ``800,1200,1600``.
        seeds: Seeds of the trainings, such as ``0-2``; by default that of the configuration.
        devices: GPUs such as ``0,1``, for as many fits side by side; ``cpu`` (``cpu,cpu`` for two fits that
            share it); ``auto`` for every visible GPU or else the CPU, the default.
        name: The corridor's folder, ``tb_logs/<subject>/<name>``; by default ``corridor``.
        search: Search the range of ``lr``, its lowest to its highest rate, for the farthest checkpoint that
            clearly dreams, by Ray Tune, with at most so many fits in the folder in all.
        launcher: Options of the engine that runs the fits, its name among them; None for this machine.
        plan_fit: Plans a fit; then what would run is printed, and nothing is run or written.
        card: For such a plan, GiB of a graphics card; by default the one that is here.

    Returns:
        The exit status: 1 if a fit did not reach its last step, whatever its own status; else 0.

    Raises:
        UserError: An option is wrong, or the folder holds a corridor made in another way.
        Ended: By a signal, after all fits were stopped in order.
    """
    from lightning_drift.launchers.local import LocalLauncher, find_slots, refuse_invisible

    command_line = {
        "lr": lr,
        "steps": steps,
        "seeds": seeds,
        "devices": devices,
        "name": name,
        "search": search,
    }
    # A section's values are what YAML makes of them: 0 is the first GPU.
    options = recipe | {option: value for option, value in command_line.items() if value is not None}
    for option in ("lr", "steps"):
        if options.get(option) is None:
            raise UserError(
                "give it, for example --lr 1e-6,2e-6,4e-6 --steps 800,1200,1600", f"corridor.{option}"
            )
    engine = read_launcher(options.pop("launcher", None), launcher or {}, "corridor")
    if engine is not None and options.get("devices") is not None:
        raise UserError(
            f"they are this machine's, and the fits run by {engine.name}; leave one of the two out",
            "corridor.devices",
        )
    devices = "auto" if options.get("devices") is None else str(options["devices"])
    name = "corridor" if options.get("name") is None else str(options["name"])
    # The cheap mistakes first: the fit's own options take seconds to check.
    if card is not None:
        from lightning_drift.forecast.card import check_card

        check_card(card, dry_run=plan_fit is not None)
    rates, counts = learning_rates(options["lr"]), milestones(options["steps"])
    own_seeds = training_seeds(options.get("seeds"))
    most = options.get("search")
    if most is not None:
        from lightning_drift.corridor.search_plan import MOST_FITS, search_engine

        whole(most, "corridor.search", 1, MOST_FITS)
        engine = search_engine(rates, own_seeds, options, engine)
    check_corridor_name(name)
    if devices != "auto":
        refuse_invisible(find_slots(devices, "auto"))
    for option, value in option_values(fit):
        if option in ("data.instance_dir", "data.init_args.instance_dir"):
            find_pictures(find_folder(value))
    config = fit_config(fit)
    plan = make_plan(config, rates, counts, name, own_seeds or None)
    own_rows = plan.rows  # the folder may hold others
    accelerator = str((config.get("trainer") or {}).get("accelerator"))
    if most is not None:
        from lightning_drift.corridor.search_plan import check_verdicts, describe_search

        check_verdicts(config)
        if plan_fit is not None:
            print(describe_search(plan, most), flush=True)
            return 0
    if engine is None:
        slots = find_slots(devices, accelerator)
        if accelerator == "cpu" and any(slot != "cpu" for slot in slots):
            raise UserError(
                f"{devices} are GPUs, and trainer.accelerator is cpu; leave one of the two out",
                "corridor.devices",
            )
        runs_on: Launcher = LocalLauncher(slots)
    else:
        runs_on = engine.make(plan.folder, on_cpu=accelerator == "cpu")
    _check_photos(config)
    check_writable(plan.folder, "trainer.logger.init_args.save_dir")
    if plan_fit is not None:
        from lightning_drift.corridor.dry_run import describe

        print(describe(joined(plan), own_rows, runs_on, plan_fit, card), flush=True)
        return 0
    plan.folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(plan.folder, "corridor")
    try:
        return run_fits(plan, own_rows, runs_on) if most is None else run_search(plan, most, runs_on)
    finally:
        lock.release()
        runs_on.close()


def report(folder: str, to: str | None = None) -> Path:
    """Write the page and the contact sheet of runs that are there already.

    Args:
        folder: A corridor's folder, a folder of several runs, or the folder of one run of ``fit``.
        to: The page's file; the contact sheet gets the same name in ``.png``. By default ``corridor.html`` in
            the folder.

    Returns:
        The page's file.

    Raises:
        UserError: There is no run in the folder, or the page cannot be written.
    """
    where = user_path(folder, "folder")
    page = user_path(to, "to") if to is not None else where / "corridor.html"
    if page.suffix != ".html":
        raise UserError(f"{page} is not a page's name; let it end in .html", "to")
    try:
        write_report(where, page)
    except OSError as error:
        raise UserError(f"cannot write {page} ({error.strerror or error})", "to") from error
    return page


def soup(folder: str, clip: str | None = None, base: str | None = None) -> Path:
    """Make the soups of a corridor with several seeds: the mean weights of each recipe's fits at each step.

    Each is measured like a milestone of the fits and becomes a row of the page; its checkpoint can be dreamed
    with and exported. What is there already is not made again.

    Args:
        folder: A corridor's folder, or one of several runs.
        clip: The CLIP that measured the fits, clip_drift.clip; by default ``pocket`` for the embedded model
            and else openai/clip-vit-large-patch14.
        base: The base pipeline, if it no longer lies where the checkpoints say.

    Returns:
        The page's file.

    Raises:
        UserError: There are no checkpoints of several seeds, or a file cannot be read or written.
    """
    from lightning_drift.corridor.soup import make_soups

    where = user_path(folder, "folder")
    try:
        for name, reading in make_soups(where, clip, base):
            print(printable(f"{name}, {reading.line}"), flush=True)
    except OSError as error:
        raise UserError(f"cannot write to {where} ({error.strerror or error})", "folder") from error
    return report(folder)


def main(argv: Sequence[str], plan_fit: _PlanFit) -> int:
    """Run ``lightning-drift corridor`` with its command line.

    Args:
        argv: The command line.
        plan_fit: Plans a fit, for a dry run.

    Returns:
        The exit status: 0; 1 if a fit did not reach its last step.

    Raises:
        Ended: By a signal.
    """
    if argv[:1] in (["report"], ["soup"]):
        asked = report if argv[0] == "report" else soup
        about, _, _ = (asked.__doc__ or "").partition("\n")
        parser = TextParser(prog=f"lightning-drift corridor {argv[0]}", description=about)
        parser.add_argument("folder", type=str, help="A corridor's folder, several runs' or one run's.")
        parser.add_function_arguments(asked, as_positional=False, skip={"folder"})
        words = mark_texts(argv[1:], text_options(asked).get)
        page = asked(**plain(parser.parse_args(words).as_dict()))
        print(printable(f"wrote {page} and {page.with_suffix('.png').name} beside it"))
        return 0
    if argv[:1] == ["fit"]:
        return _fit_one(argv[1:], plan_fit)
    if argv[:1] == ["label"]:
        from lightning_drift.corridor.label.command import main as label

        return label(argv[1:])
    about = " ".join((corridor.__doc__ or "").partition("Args:")[0].split())
    parser = TextParser(prog="lightning-drift corridor", description=about, add_help=False)
    parser.add_function_arguments(
        corridor, as_positional=False, skip={"fit", "recipe", "launcher", "plan_fit", "card"}
    )
    parser.add_argument("--launcher", type=str | None, help=f"What runs the fits: {', '.join(NAMES)}.")
    parser.add_argument("--dry_run", action="store_true", help="Print the plan, and fit and write nothing.")
    parser.add_argument("--card", type=float | None, help="GiB of a graphics card to plan for, such as 8.")
    if "-h" in argv or "--help" in argv:
        text = io.StringIO()
        parser.print_help(text)
        print(USAGE + text.getvalue().partition("\n\n")[2], end="")
        print("  -c, --config FILE     Configuration of the fits, with a section `corridor` or without one.")
        print("\n" + launcher_help(), end="")
        return 0
    own, fit = own_words(argv)
    engine, own = launcher_words(own)
    options = plain(parser.parse_args(mark_texts(own, text_options(corridor).get)).as_dict())
    del options["launcher"]
    if options.pop("dry_run"):
        options["plan_fit"] = plan_fit
    ends.begin()
    with tempfile.TemporaryDirectory(prefix="corridor-") as scratch:
        fit, recipe = read_configs(fit, Path(scratch))
        if "--print_config" in fit:
            fit.remove("--print_config")
            print(yaml.safe_dump({"corridor": recipe, **fit_config(fit)}, sort_keys=False), end="")
            raise SystemExit(0)
        go_on = f"go on with: {command(['corridor', *argv])}"
        try:
            status = corridor(fit, recipe, **options, launcher=engine)
        except ends.Ended as end:
            end.reached = f"{end.reached}; {go_on}" if end.reached else f"before a fit began; {go_on}"
            raise
        if status:
            notice(f"to {go_on}")
        return status


def _fit_one(argv: Sequence[str], run_command: _PlanFit) -> int:
    """``corridor fit``: do what one fit of a corridor lacks, in this process; what launchers run."""
    from lightning_drift.corridor.fit_row import fit_words

    about = (
        "Do what one fit of a corridor lacks, in this process, on any machine that sees its folder: the job "
        "that launchers run. It goes on where the fit stopped, and ends at once where that is finished."
    )
    parser = TextParser(prog="lightning-drift corridor fit", description=about)
    parser.add_argument("folder", type=str, help="The corridor's folder.")
    parser.add_argument("run", type=str, help="The name of a run folder in it, such as lr2e-6.")
    given = plain(parser.parse_args([Text(word) if word[:1] != "-" else word for word in argv]).as_dict())
    folder = user_path(given["folder"], "folder")
    words = fit_words(folder, given["run"])
    if words is None:
        print(printable(f"{folder / given['run']} is finished"))
        return 0
    sys.argv[1:] = words  # Lightning starts further processes with this process's arguments
    run_command(words)
    return 0


def _check_photos(config: dict[str, Any]) -> None:
    """Look at the fits' photos before there is a corridor of them.

    Raises:
        UserError: There are none.
    """
    data = config.get("data") or {}
    if str(data.get("class_path", "")).rpartition(".")[2] == "InstanceImages":
        find_pictures(find_folder(str((data.get("init_args") or {}).get("instance_dir"))))
