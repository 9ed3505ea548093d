"""The ``corridor`` command: fit several learning rates, or write the page of what was fitted."""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_drift.assets import DEFAULTS
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
from lightning_drift.common.numbers import shown, whole
from lightning_drift.common.text import command, printable, shell_word
from lightning_drift.common.yaml_files import read_yaml
from lightning_drift.corridor.choice import choose
from lightning_drift.corridor.plan import (
    Plan,
    Row,
    check_corridor_name,
    joined,
    learning_rates,
    make_plan,
    milestones,
    take_up,
    training_seeds,
)
from lightning_drift.corridor.read import read
from lightning_drift.corridor.report import write_report
from lightning_drift.fit.runs import rate_text
from lightning_drift.launchers.job import Launcher
from lightning_drift.launchers.options import NAMES, Engine, launcher_help, launcher_words, read_launcher
from lightning_drift.photos.folder import find_folder, find_pictures

_PlanFit = Callable[..., Any]
"""A `PlanFit` of `dry_run`, whose import takes seconds that only a plan needs."""

# Decided by the corridor, fit by fit.
_TAKEN = {
    "model.learning_rate": "--lr",
    "model.init_args.learning_rate": "--lr",
    "trainer.max_steps": "--steps",
    "step_checkpoint.steps": "--steps",
    "seed_grid.steps": "--steps",
    "clip_drift.steps": "--steps",
    "ckpt_path": None,
}

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
        whole(most, "corridor.search", 1, MOST_FITS)
        engine = _search_engine(rates, own_seeds, options, engine)
    check_corridor_name(name)
    if devices != "auto":
        refuse_invisible(find_slots(devices, "auto"))
    for option, value in option_values(fit):
        if option in ("data.instance_dir", "data.init_args.instance_dir"):
            find_pictures(find_folder(value))
    config = _fit_config(fit)
    plan = make_plan(config, rates, counts, name, own_seeds or None)
    own_rows = plan.rows  # the folder may hold others
    accelerator = str((config.get("trainer") or {}).get("accelerator"))
    if most is not None:
        from lightning_drift.corridor.search import check_verdicts, describe_search

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
        return _run(plan, own_rows, runs_on) if most is None else _search(plan, most, runs_on)
    finally:
        lock.release()
        runs_on.close()


MOST_FITS = 1000
"""Fits of a search."""


def _search_engine(
    rates: list[float], seeds: list[int], options: Mapping[str, Any], engine: Engine | None
) -> Engine:
    """What a search runs on: Ray, one of this machine where none is named.

    Raises:
        UserError: An option does not go with a search, or Ray Tune is not installed.
    """
    if len(rates) < 2:
        raise UserError(
            "a search is for a range; give its lowest and its highest rate, such as 1e-6,8e-6", "corridor.lr"
        )
    if len(seeds) > 1:
        raise UserError("a search is for one seed; fit the rate that it finds with several", "corridor.seeds")
    if engine is not None and engine.name != "ray":
        raise UserError(
            f"a search runs by Ray Tune, and not by {engine.name}; give --launcher ray, or none", "launcher"
        )
    if options.get("devices") is not None:
        raise UserError(
            "Ray places the fits of a search; leave it out, and give --launcher ray with --launcher.gpus",
            "corridor.devices",
        )
    from lightning_drift.launchers.extras import extra
    from lightning_drift.launchers.ray_engine import Ray

    extra("ray.tune", "ray")
    return engine or Engine("ray", Ray(address="local"))


def _search(plan: Plan, most: int, launcher: Launcher) -> int:
    """Search for the rate that dreams farthest; the exit status."""
    from lightning_drift.corridor.search import Search
    from lightning_drift.launchers.ray_engine import RayLauncher

    assert isinstance(launcher, RayLauncher)
    page = plan.folder / "corridor.html"
    ends_of_range = f"lr {rate_text(plan.rates[0])} to {rate_text(plan.rates[-1])}"
    shape = f"{ends_of_range} x {_counted(len(plan.steps), 'step')}, {_counted(most, 'fit')} at most"
    print(printable(f"searching {shape}, on {launcher.describe()}, in {plan.folder}"), flush=True)

    def renew() -> None:
        _renew(plan, page)

    search = Search(plan, most, launcher, renew)
    try:
        search.run()
    except ends.Ended as end:
        end.reached = f"with {search.reached()}; all fits are stopped"
        raise
    finally:
        if search.known:
            renew()
    if not search.known:
        raise UserError("no fit was begun", "corridor.search")
    table = read(plan.folder, own=True)
    cell = choose(table).cell
    used = f"{_counted(sum(not known.runs for known in search.known.values()), 'fit')} of {most}"
    if cell is None or cell.borderline is not None:
        print(f"\n{choose(table).sentence} ({used})", flush=True)
    else:
        rate = next(run.label for run in table.runs if run.name == cell.run)
        place = "" if cell.position is None else f", {cell.position:.0f} of 100"
        print(f"\nfarthest clearly dreaming: lr {rate} after {cell.step} steps{place} ({used})", flush=True)
    return _conclude(search.plan, page, search.failed)


def _renew(plan: Plan, page: Path) -> None:
    """Write the page again; a failure is told."""
    try:
        write_report(plan.folder, page, own=True)
    except (OSError, UserError) as error:  # the page can be written again at any time, a fit cannot
        reason = error.strerror or error if isinstance(error, OSError) else error
        notice(f"cannot write {page}: {reason}; the fits go on")


def _conclude(plan: Plan, page: Path, failed: Sequence[Row]) -> int:
    """Say where everything is; the exit status."""
    print(
        f"\nThe page:     {printable(str(page))}\nContact sheet: {printable(str(page.with_suffix('.png')))}"
    )
    print(f"TensorBoard:  tensorboard --logdir {shell_word(str(plan.root / plan.subject))}", flush=True)
    if failed:
        notice(f"{'; '.join(row.label for row in failed)} did not reach step {plan.steps[-1]}")
        return 1
    return 0


def _run(plan: Plan, own_rows: list[Row], launcher: Launcher) -> int:
    """Run what a corridor lacks; the exit status."""
    from lightning_drift.corridor.fit_queue import FitQueue

    plan = take_up(plan)
    page = plan.folder / "corridor.html"
    shape = f"{_counted(len(plan.rates), 'learning rate')} x {_counted(len(plan.steps), 'step')}"
    shape += f" x {_counted(len(plan.seeds), 'seed')}" if len(plan.seeds) > 1 else ""
    print(printable(f"{shape} in {plan.folder}"), flush=True)

    def renew() -> None:
        _renew(plan, page)

    queue = FitQueue(plan, own_rows, launcher, renew)
    try:
        queue.run()
    except ends.Ended as end:
        end.reached = f"with {queue.reached()}; all fits are stopped"
        raise
    finally:
        renew()
    return _conclude(plan, page, queue.failed)


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
    own, fit = _split(argv)
    engine, own = launcher_words(own)
    options = plain(parser.parse_args(mark_texts(own, text_options(corridor).get)).as_dict())
    del options["launcher"]
    if options.pop("dry_run"):
        options["plan_fit"] = plan_fit
    ends.begin()
    with tempfile.TemporaryDirectory(prefix="corridor-") as scratch:
        fit, recipe = _read_configs(fit, Path(scratch))
        if "--print_config" in fit:
            fit.remove("--print_config")
            print(yaml.safe_dump({"corridor": recipe, **_fit_config(fit)}, sort_keys=False), end="")
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


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell the corridor's own options from those of the fits.

    Raises:
        UserError: An option is the corridor's to set.
    """
    own: list[str] = []
    fit: list[str] = []
    words = iter(argv)
    for word in words:
        option, has_value, _ = word.partition("=")
        if option == "--dry_run":
            own.append(word)
            continue
        if option in (
            "--lr",
            "--steps",
            "--seeds",
            "--devices",
            "--name",
            "--search",
            "--card",
            "--launcher",
        ) or (option.startswith("--launcher.")):
            own += [word] if has_value else [word, *([value] if (value := next(words, None)) else [])]
            continue
        if option.removeprefix("--") in _TAKEN and option.startswith("--"):
            instead = _TAKEN[option.removeprefix("--")]
            hint = f"use {instead}" if instead else "it resumes by itself"
            raise UserError(f"the corridor sets this for each fit; {hint}", option)
        fit.append(word)
    return own, fit


def _read_configs(words: list[str], scratch: Path) -> tuple[list[str], dict[str, Any]]:
    """Take the ``corridor`` sections out of the configurations and put the recipes they name ahead of them.

    Without any configuration the packaged corridor of the pocket model is used.

    Returns:
        The fits' options and the sections, joined.

    Raises:
        UserError: A file is missing, or a section is not one.
    """
    places = [i for i, word in enumerate(words) if word.partition("=")[0] in ("-c", "--config")]
    if not places:
        words, places = ["-c", str(DEFAULTS / "corridor.yaml"), *words], [0]
    fit: list[str] = []
    recipe: dict[str, Any] = {}
    skip = False
    for i, word in enumerate(words):
        if skip:
            skip = False
            continue
        if i not in places:
            fit.append(word)
            continue
        _, has_value, value = word.partition("=")
        if not has_value:
            value, skip = (words[i + 1] if i + 1 < len(words) else ""), True
        path = user_path(value, "-c")
        config = read_yaml(path, "configuration", "-c")
        if not isinstance(config, dict) or "corridor" not in config:
            fit += ["-c", value]  # fit says what is wrong with it
            continue
        section = config.pop("corridor")
        options = {"lr", "steps", "seeds", "devices", "name", "search", "launcher", "recipe"}
        if not isinstance(section, dict) or set(section) - options:
            raise UserError(f"{path}: corridor: give a section of {', '.join(sorted(options))}")
        recipe |= section
        if "recipe" in section:
            named = section["recipe"]
            if not isinstance(named, str):
                raise UserError(f"{shown(named)} in {path} is no file's name", "corridor.recipe")
            fit += ["-c", str(path.parent / user_path(named, "corridor.recipe"))]
        rest = scratch / f"{i}.yaml"
        rest.write_text(yaml.safe_dump(config), encoding="utf-8")
        fit += ["-c", str(rest)] if config else []
    return fit, recipe


def _fit_config(words: list[str]) -> dict[str, Any]:
    """What ``fit`` makes of its options, checked before anything runs.

    Raises:
        UserError: It refuses them.
    """
    command = [sys.executable, "-m", "lightning_drift", "fit", *words, "--print_config"]
    result = subprocess.run(command, capture_output=True, text=True)
    if stopped := ends.signal_of(result.returncode):
        raise UserError(f"whoever read the options of the fits was stopped by {stopped}; start it again")
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise UserError(sentences[-1] if sentences else lines[-1] if lines else "fit refuses its options")
    return dict(yaml.safe_load(result.stdout))
