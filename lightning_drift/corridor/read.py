"""Runs as their event files tell them: the table learning rate x steps that the page shows."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_drift.common.errors import UserError
from lightning_drift.common.number_lists import integers
from lightning_drift.common.prompt_lists import slug
from lightning_drift.corridor.plan import read_plan
from lightning_drift.drift.verdict import ZONES
from lightning_drift.fit.checkpointing import read_checkpoint
from lightning_drift.fit.runs import rate_name, rate_text

ERROR_FILE = "{run}.error.txt"
"""Beside a run folder of a corridor: why its fit failed, in a sentence."""


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
    """

    name: str
    folder: Path
    rate: float
    config: dict[str, Any]
    resumes: list[dict[str, Any]] = field(default_factory=list)
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    verdicts: dict[int, str] = field(default_factory=dict)
    error: str = ""
    _steps: dict[str, int | None] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        """The learning rate as people write it."""
        return rate_text(self.rate)

    @cached_property
    def prompts(self) -> dict[str, list[int]]:
        """Seeds by prompt, in the order of the seed grid's groups, as the run recorded them."""
        seeds: dict[str, list[int]] = {}
        for config in (self.config, *self.resumes):
            for group in ((config.get("seed_grid") or {}).get("groups") or {}).values():
                prompts = [group["prompts"]] if isinstance(group["prompts"], str) else group["prompts"]
                for prompt in prompts:
                    own = integers(group.get("seeds", "0-7"), "seeds")
                    seeds[prompt] = list(dict.fromkeys([*seeds.get(prompt, []), *own]))
        return seeds

    def picture(self, step: int, prompt: str, seed: int) -> Path | None:
        """The file of a picture in ``grids/``; None if it is not there."""
        path = self.folder / "grids" / f"step={step:05d}" / f"{slug(prompt)}_seed{seed:04d}.png"
        return path if path.is_file() else None

    @cached_property
    def milestones(self) -> list[int]:
        """Steps with pictures or a reading, 0 for the base model included."""
        steps = {step for tag in ("drift/zone", "drift/tilt") for step, _ in self.scalars.get(tag, [])}
        for entry in self.folder.glob("grids/step=*"):
            if match := re.fullmatch(r"step=(\d+)", entry.name):
                steps.add(int(match[1]))
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
        """The file that holds the weights after a step."""
        folder = Path(
            (self.config.get("step_checkpoint") or {}).get("dirpath") or self.folder / "checkpoints"
        )
        path = folder / f"step={step:05d}.ckpt"
        if path.is_file():
            return path
        return folder / "last.ckpt" if step == self._last_step(folder / "last.ckpt") else None

    def _last_step(self, path: Path) -> int | None:
        if "last" not in self._steps:
            try:
                self._steps["last"] = int(read_checkpoint(path)["global_step"])
            except UserError:
                self._steps["last"] = None
        return self._steps["last"]

    def cell(self, step: int) -> CorridorCell:
        """What is known of a checkpoint."""
        at = {tag: dict(self.scalars.get(f"drift/{tag}", [])) for tag in ("zone", "borderline", "position")}
        if step not in self.milestones:
            state = "failed" if self.error else "not run"
            stop = self.stopped((self.config.get("clip_drift") or {}).get("stop_when"))
            verdict = self.error or "The fit has not come this far."
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
            at["position"].get(step),
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
    """

    folder: Path
    title: str
    runs: list[RecordedRun]
    steps: list[int]
    cells: dict[tuple[str, int], CorridorCell]


def read(folder: Path) -> CorridorTable:
    """Read a corridor's folder, a subject's folder with several runs, or the folder of one run.

    Raises:
        UserError: There is no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give a corridor's folder or that of a run")
    plan = read_plan(folder)
    if plan is not None:
        rates, steps, fit = plan
        runs = [_read_run(folder / rate_name(rate), rate, fit) for rate in rates]
    else:
        folders = [folder] if _is_run(folder) else sorted(p.parent for p in folder.glob("*/config.yaml"))
        runs = sorted(map(_read_run, filter(_is_run, folders)), key=lambda run: (run.rate, run.name))
        steps = sorted({step for run in runs for step in run.milestones if step})
    if not runs:
        raise UserError(f"{folder} holds no run: no folder with a config.yaml and event files in it")
    logger = (runs[0].config.get("trainer") or {}).get("logger")
    title = ((logger or {}).get("init_args") or {}).get("name") if isinstance(logger, dict) else None
    photos = ((runs[0].config.get("data") or {}).get("init_args") or {}).get("instance_dir")
    cells = {(run.name, step): run.cell(step) for run in runs for step in steps}
    return CorridorTable(folder, str(title or Path(str(photos or folder)).name), runs, steps, cells)


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and any(folder.glob("events.out.tfevents.*"))


def _read_run(folder: Path, rate: float | None = None, planned: dict[str, Any] | None = None) -> RecordedRun:
    path = folder / "config.yaml"
    config = _read_config(path) if path.is_file() else planned or {}
    resumes = [_read_config(resume) for resume in sorted(folder.glob("config.resume-*.yaml"))]
    if rate is None:
        rate = float(((config.get("model") or {}).get("init_args") or {}).get("learning_rate") or 0.0)
    failure = folder.with_name(ERROR_FILE.format(run=folder.name))
    error = failure.read_text(encoding="utf-8").strip() if failure.is_file() else ""
    run = RecordedRun(folder.name, folder, rate, config, resumes, error=error)
    if folder.is_dir():
        _read_events(run)
    return run


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as damage:
        raise UserError(f"{path} cannot be read ({type(damage).__name__})") from damage


def _read_events(run: RecordedRun) -> None:
    """Scalars and verdicts; of a point that a resume logged again, the newer value."""
    # Torch-free, but slow to import: only where there is something to read.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
    from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

    # 0 means all; the pictures themselves are taken from grids/.
    events = EventAccumulator(str(run.folder), size_guidance={"images": 1, "scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    for tag in tags["scalars"]:
        points = {event.step: float(event.value) for event in events.Scalars(tag)}
        run.scalars[tag] = sorted(points.items())
    for tag in ("drift/verdict/text_summary", "drift/verdict"):
        if tag in tags["tensors"]:
            for event in events.Tensors(tag):
                text = make_ndarray(event.tensor_proto).item()
                run.verdicts[event.step] = text.decode("utf-8", "replace").strip()


def _zone(index: float | None) -> str | None:
    return ZONES[int(index)] if index is not None and 0 <= index < len(ZONES) else None
