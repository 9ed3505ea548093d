"""Runs as their event files tell them: the table learning rate x steps that the page shows."""

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_text
from lightning_drift.common.prompt_lists import slug
from lightning_drift.common.text import listed
from lightning_drift.corridor.event_files import MAX_STEP, PATTERN, Events
from lightning_drift.corridor.plan import FIT, PLAN, Row, read_plan, rows
from lightning_drift.corridor.run_config import (
    arguments,
    checked,
    checkpoint_folder,
    learning_rate,
    read_run_config,
    seeds_by_prompt,
)
from lightning_drift.drift.verdict import ZONES
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.runs import rate_text

ERROR_FILE = "{run}.error.txt"
"""Beside a run folder of a corridor: why its fit failed, in a sentence."""

STOPPED_FILE = "{run}.stopped.txt"
"""Beside a run folder of a corridor: why its fit was stopped before its last step, in a sentence."""

SOUP = "_soup"
"""Ends the folder's name of the mean of a run and its siblings, which differ in their seeds."""

MOST_PICTURES = 1_000_000
"""Pictures that a page looks for."""


class Point(NamedTuple):
    """A measure at a step with its 90 % interval; without one, ``low`` and ``high`` are the value."""

    step: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CorridorCell:
    """A checkpoint of the corridor.

    Attributes:
        run: Its run's name.
        step: Optimizer steps.
        state: ``measured``, ``not measured`` (pictures without a verdict), ``failed`` or ``not run``.
        zone: The verdict's zone; None without a verdict.
        borderline: The zone that the interval also touches; None if it touches none.
        position: 0 to 100 along the corridor; None without a verdict, and for a broken model.
        verdict: The verdict in words, or why there is none; Markdown.
        checkpoint: Its file; None if there is none.
    """

    run: str
    step: int
    state: str
    zone: str | None = None
    borderline: str | None = None
    position: float | None = None
    verdict: str = ""
    checkpoint: Path | None = None


@dataclass
class RecordedRun:
    """A fit's run folder.

    Attributes:
        name: The folder's name.
        folder: Where it lies.
        rate: Its learning rate.
        config: What ran, as in ``config.yaml``.
        resumes: What ran after each resume, as in ``config.resume-<step>.yaml``, in the order of steps.
        scalars: Every scalar by tag, in the order of steps.
        verdicts: The verdict's text by step.
        error: Why the fit failed, empty if it did not.
        stopped_because: Why it was stopped on purpose, empty if it was not.
        root: The folder that the run's files must lie in, links followed; None where they may lie anywhere.
        remarks: What is damaged or lies elsewhere and was passed over, in sentences.
    """

    name: str
    folder: Path
    rate: float
    config: dict[str, Any]
    resumes: list[dict[str, Any]] = field(default_factory=list)
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    verdicts: dict[int, str] = field(default_factory=dict)
    error: str = ""
    stopped_because: str = ""
    root: Path | None = None
    remarks: list[str] = field(default_factory=list)
    _last: dict[tuple[int, int], int | None] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        """The learning rate as people write it."""
        return rate_text(self.rate)

    @property
    def seed(self) -> object:
        """The training's seed, as its configuration has it."""
        return self.config.get("seed_everything")

    @property
    def soup(self) -> bool:
        """Whether it is no fit but the mean of fits."""
        return "soup" in self.config

    @cached_property
    def prompts(self) -> dict[str, list[int]]:
        """Seeds by prompt, in the order of the seed grid's groups, as the run recorded them."""
        seeds: dict[str, list[int]] = {}
        for config in (self.config, *self.resumes):
            for prompt, own in seeds_by_prompt(config).items():
                seeds[prompt] = list(dict.fromkeys([*seeds.get(prompt, []), *own]))
        return seeds

    def picture(self, step: int, prompt: str, seed: int) -> Path | None:
        """The file of a picture in ``grids/``; None if it is not there."""
        return self._grid_file(step, prompt, seed)

    def drift_map(self, step: int, prompt: str, seed: int) -> Path | None:
        """The file of a picture's map in ``grids/``; None if it is not there."""
        return self._grid_file(step, prompt, seed, "_map")

    def _grid_file(self, step: int, prompt: str, seed: int, kind: str = "") -> Path | None:
        path = self.folder / "grids" / f"step={step:05d}" / f"{slug(prompt)}_seed{seed:04d}{kind}.png"
        return path if os.path.isfile(path) and lies_in(path, self.root) else None

    def reading(self, step: int) -> Path | None:
        """The file of a step's reading in ``drift/``; None if it is not there."""
        path = self.folder / "drift" / f"step={step:05d}.json"
        return path if os.path.isfile(path) and lies_in(path, self.root) else None

    @cached_property
    def milestones(self) -> list[int]:
        """Steps with pictures or a reading, 0 for the base model included."""
        steps = {step for tag in ("drift/zone", "drift/tilt") for step, _ in self.scalars.get(tag, [])}
        odd = []
        for entry in sorted(self.folder.glob("grids/step=*")):
            match = re.fullmatch(r"step=([0-9]{1,11})", entry.name)
            if match and int(match[1]) <= MAX_STEP:
                steps.add(int(match[1]))
            else:
                odd.append(entry.name)
        if odd:
            self.remarks.append(
                f"not read in {self.folder / 'grids'}: {listed(odd)}, which are no steps of a fit"
            )
        return sorted(steps | set(self.verdicts))

    def stopped(self, stop_when: str | None) -> int | None:
        """The step at which ``clip_drift.stop_when`` ended the fit; None if it did not."""
        if stop_when not in ZONES:
            return None
        beyond = (step for step, zone in self.scalars.get("drift/zone", []) if zone >= ZONES.index(stop_when))
        return next((step for step in beyond if step), None)

    def readings(self, measure: str) -> list[Point]:
        """A measure over the steps, with its intervals where the run logged them."""
        low, high = (dict(self.scalars.get(f"{part}/{measure}", [])) for part in ("drift_low", "drift_high"))
        return [
            Point(step, value, low.get(step, value), high.get(step, value))
            for step, value in self.scalars.get(f"drift/{measure}", [])
        ]

    def checkpoint(self, step: int) -> Path | None:
        """The file that holds the weights after a step; of a run of others, one inside the folder read."""
        folder = self._checkpoints()
        if folder is None:
            return None
        path = folder / f"step={step:05d}.ckpt"
        if os.path.isfile(path):
            return path if lies_in(path, self.root) else None
        return folder / "last.ckpt" if step == self._last_step(folder / "last.ckpt") else None

    def saved_up_to(self) -> int | None:
        """The highest step that a checkpoint of the run is of, by their names; None if it has none."""
        folder = self._checkpoints()
        if folder is None:
            return None
        files = (path for path in folder.glob("step=*.ckpt") if path.is_file() and lies_in(path, self.root))
        named = (re.fullmatch(r"step=([0-9]{1,11})\.ckpt", path.name) for path in files)
        steps = [*(int(match[1]) for match in named if match), self._last_step(folder / "last.ckpt")]
        return max((step for step in steps if step is not None), default=None)

    def _checkpoints(self) -> Path | None:
        """The folder of its checkpoints; None if that lies elsewhere: commands to copy name nothing there."""
        folder = checkpoint_folder(self.config) or self.folder / "checkpoints"
        return folder if lies_in(folder, self.root) else None

    def _last_step(self, path: Path) -> int | None:
        """The step of ``last.ckpt``, which is opened once for each time that it was written."""
        if not os.path.isfile(path) or not lies_in(path, self.root):
            return None
        status = os.stat(path)
        version = status.st_mtime_ns, status.st_size
        if version not in self._last:
            self._last.clear()
            self._last[version] = None
            with suppress(UserError, TypeError, ValueError):  # it names no step
                self._last[version] = int(read_checkpoint(path)["global_step"])
        return self._last[version]

    def cell(self, step: int) -> CorridorCell:
        """What is known of a checkpoint."""
        at = {tag: dict(self.scalars.get(f"drift/{tag}", [])) for tag in ("zone", "borderline", "position")}
        if step not in self.milestones:
            state = "failed" if self.error else "not run"
            stop = self.stopped((self.config.get("clip_drift") or {}).get("stop_when"))
            verdict = self.error or self.stopped_because or "The fit has not come this far."
            if stop is not None and step > stop:
                zone = _zone(dict(self.scalars["drift/zone"])[stop])
                verdict = (
                    f"The fit was ended at step {stop}, where the model was {zone} (clip_drift.stop_when)."
                )
            return CorridorCell(self.name, step, state, verdict=verdict)
        zone, border = (_zone(at[tag].get(step)) for tag in ("zone", "borderline"))
        verdict = self.verdicts.get(step, "")
        if zone is None and not verdict:
            verdict = "Not measured: this fit ran without drift measures. The pictures can be judged by eye."
        return CorridorCell(
            self.name,
            step,
            "not measured" if zone is None else "measured",
            zone,
            border,
            _position(at["position"].get(step)),
            verdict,
            self.checkpoint(step),
        )


@dataclass(frozen=True)
class CorridorTable:
    """A corridor as read from disk.

    Attributes:
        folder: What was read.
        title: The subject's name.
        runs: Ascending in the learning rate.
        steps: Columns, without the base model.
        cells: By run name and step.
        own: Whether its reader made the runs; else nothing is read that lies outside ``root``.
        remarks: What is damaged or lies elsewhere and was passed over, in sentences.
        root: The folder that its files must lie in; None for ``folder``.
    """

    folder: Path
    title: str
    runs: list[RecordedRun]
    steps: list[int]
    cells: dict[tuple[str, int], CorridorCell]
    own: bool = False
    remarks: list[str] = field(default_factory=list)
    root: Path | None = None

    def holds(self, path: Path) -> bool:
        """Whether what a path leads to may be shown: it lies in the folder, or all is one's own."""
        return self.own or lies_in(path, self.root or self.folder)


@dataclass(frozen=True)
class FoundRuns:
    """The runs of a corridor before anything is known of what they logged.

    Attributes:
        folder: Where they were looked for.
        runs: Ascending in the learning rate; those of a plan may not have begun.
        steps: The plan's steps; None without a plan, when the milestones of the runs are the steps.
        root: The folder that everything must lie in, links followed; None where it may lie anywhere.
        remarks: What is damaged or lies elsewhere and was passed over, in sentences.
    """

    folder: Path
    runs: list[RecordedRun]
    steps: list[int] | None
    root: Path | None
    remarks: list[str]


def read(folder: Path, own: bool = False, strict: bool = False) -> CorridorTable:
    """Read a corridor's folder, a subject's folder with several runs, or the folder of one run.

    A run that is damaged is passed over with a remark, unless it is the only one.

    Args:
        folder: The folder.
        strict: Whether a damaged configuration ends the reading, as is right for who goes on with the fits.
        own: Whether the caller made the runs. Of somebody else's nothing outside the folder is read.

    Raises:
        UserError: There is no run in it that can be read.
    """
    found = find_runs(folder, None if own else folder, strict)
    for run in found.runs:
        _read_events(run)
    return tabulate(found, own)


def find_runs(
    folder: Path, root: Path | None, strict: bool = False, wanted: Callable[[Path], bool] | None = None
) -> FoundRuns:
    """Find the runs in a folder and read what they are, but not what they logged.

    Args:
        folder: A corridor's folder, a subject's folder with several runs, or the folder of one run.
        root: The folder that everything must lie in; None where it may lie anywhere.
        strict: Whether a damaged configuration ends the reading.
        wanted: Which folders are runs, where no plan says it; None for all with a configuration and event
            files.

    Raises:
        UserError: There is no run in it that can be read.
    """
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}; give a corridor's folder or that of a run")
    remarks: list[str] = []
    plan = read_plan(folder) if _all_lie_in((folder / PLAN, folder / FIT), root, remarks) else None
    steps: list[int] | None = None
    if plan is not None:
        rates, steps, seeds, fit = plan
        fit = checked(fit, folder / FIT)
        runs = []
        for row in rows(rates, seeds, fit):
            runs.append(_planned_run(folder, row, fit, root, strict))
            soup = folder / f"{row.name}{SOUP}"
            runs += [_read_run(soup, root)] if _is_run(soup) else []
        runs.sort(key=lambda run: (run.rate, run.soup))
    else:
        runs = _found_runs(folder, root, strict, wanted or _is_run, remarks)
        runs.sort(key=lambda run: (run.rate, run.name))
    if not runs:
        raise UserError(f"{folder} holds no run: no folder with a config.yaml and event files in it")
    return FoundRuns(folder, runs, steps, root, remarks)


def tabulate(found: FoundRuns, own: bool = False) -> CorridorTable:
    """Lay out runs as a table, once their scalars and verdicts are known.

    Args:
        found: The runs.
        own: Whether the caller made them.

    Raises:
        UserError: They name more pictures than a page looks for.
    """
    folder, runs, steps = found.folder, found.runs, found.steps
    if steps is None:
        steps = sorted({step for run in runs for step in run.milestones if step})
    pictures = sum(len(seeds) for run in runs for seeds in run.prompts.values()) * (len(steps) + 1)
    if pictures > MOST_PICTURES:
        raise UserError(f"{folder} names more than {MOST_PICTURES:,} pictures; give the folder of one run")
    logger = (runs[0].config.get("trainer") or {}).get("logger")
    settings = logger.get("init_args") if isinstance(logger, dict) else None
    title = settings.get("name") if isinstance(settings, dict) else None
    photos = arguments(runs[0].config, "data").get("instance_dir")
    cells = {(run.name, step): run.cell(step) for run in runs for step in steps}
    remarks = [*found.remarks, *dict.fromkeys(remark for run in runs for remark in run.remarks)]
    title = str(title or Path(str(photos or folder)).name)
    return CorridorTable(folder, title, runs, steps, cells, own, remarks, found.root)


def _found_runs(
    folder: Path, root: Path | None, strict: bool, wanted: Callable[[Path], bool], remarks: list[str]
) -> list[RecordedRun]:
    if wanted(folder):
        return [_read_run(folder, root)]
    runs, refused = [], []
    for each in filter(wanted, sorted(path.parent for path in folder.glob("*/config.yaml"))):
        try:
            runs.append(_read_run(each, root))
        except UserError as error:
            refused.append(error)
    if refused and (strict or not runs):
        raise refused[0]
    remarks += [f"{error}; the page is without it" for error in refused]
    return runs


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / "config.yaml") and any(folder.glob(PATTERN))


def _read_run(folder: Path, root: Path | None) -> RecordedRun:
    """A run of its own.

    Raises:
        UserError: Its configuration is damaged, or lies elsewhere.
    """
    path = folder / "config.yaml"
    if not lies_in(path, root):
        raise UserError(f"{path} is a link that leads out of {root}")
    config = read_run_config(path)
    return _with_records(RecordedRun(folder.name, folder, learning_rate(config), config, root=root))


def _planned_run(
    corridor: Path, row: Row, planned: dict[str, Any], root: Path | None, strict: bool
) -> RecordedRun:
    """A run of a corridor, which may not have begun; its rate and what is damaged are known from the plan."""
    if row.seed is not None:
        planned = {**planned, "seed_everything": row.seed}
    run = RecordedRun(row.name, corridor / row.name, row.rate, planned, root=root)
    path = run.folder / "config.yaml"
    if os.path.lexists(path) and _all_lie_in((path,), root, run.remarks):
        try:
            run.config = read_run_config(path)
        except UserError as error:
            if strict:
                raise
            run.remarks.append(f"{error}; what was planned stands for it")
    return _with_records(run)


def _with_records(run: RecordedRun) -> RecordedRun:
    """Add what a run's files say beside its event files; remarks tell what is damaged or lies elsewhere."""
    for path in sorted(run.folder.glob("config.resume-*.yaml")):
        if _all_lie_in((path,), run.root, run.remarks):
            try:
                run.resumes.append(read_run_config(path))
            except UserError as error:
                run.remarks.append(f"{error}; it is passed over")
    run.error = _beside(run, ERROR_FILE, "report of a failed fit")
    run.stopped_because = _beside(run, STOPPED_FILE, "report of a stopped fit")
    return run


def _beside(run: RecordedRun, name: str, what: str) -> str:
    """The sentence in a file beside a run's folder; empty where there is none."""
    path = run.folder.with_name(name.format(run=run.folder.name))
    if not os.path.lexists(path) or run.folder == run.root or not _all_lie_in((path,), run.root, run.remarks):
        return ""
    try:
        return read_text(path, what).strip()
    except UserError as error:
        return error.message


def _read_events(run: RecordedRun) -> None:
    """Add the scalars and verdicts that a run logged; remarks tell what is damaged or lies elsewhere."""
    events = Events(run.remarks)
    for path in sorted(run.folder.glob(PATTERN)):
        if _all_lie_in((path,), run.root, run.remarks):
            events.read(path)
    run.scalars = {tag: sorted(points.items()) for tag, points in events.scalars.items()}
    for tag in ("drift/verdict/text_summary", "drift/verdict"):
        run.verdicts |= events.texts.get(tag, {})


def lies_in(path: Path, root: Path | None) -> bool:
    """Whether a path, links followed, lies in a folder; None is everywhere."""
    return root is None or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _all_lie_in(paths: tuple[Path, ...], root: Path | None, remarks: list[str]) -> bool:
    """The same of several files, with a remark for each that lies elsewhere."""
    elsewhere = [path for path in paths if not lies_in(path, root)]
    remarks += [f"{path} is a link that leads out of {root}; it is passed over" for path in elsewhere]
    return not elsewhere


def _zone(index: float | None) -> str | None:
    return ZONES[int(index)] if index is not None and 0 <= index < len(ZONES) else None


def _position(value: float | None) -> float | None:
    """A position as it was logged; one that is far from 0 to 100, or no number, is none."""
    return value if value is not None and math.isfinite(value) and abs(value) <= 1000 else None
