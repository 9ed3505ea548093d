"""A fit's run folder as its files tell it: what ran, what it logged, where pictures and weights lie."""

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lightning_drift.common.errors import UserError
from lightning_drift.common.prompt_lists import slug
from lightning_drift.common.text import listed
from lightning_drift.corridor.event_files import MAX_STEP
from lightning_drift.corridor.inside import lies_in
from lightning_drift.corridor.run_config import checkpoint_folder, seeds_by_prompt
from lightning_drift.drift.verdict import ZONES
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.runs import rate_text


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
    _listed: dict[int, frozenset[str]] = field(default_factory=dict, init=False, repr=False)

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
        name = f"{slug(prompt)}_seed{seed:04d}{kind}.png"
        return self._grid(step) / name if name in self._pictures(step) else None

    def _grid(self, step: int) -> Path:
        return self.folder / "grids" / f"step={step:05d}"

    def _pictures(self, step: int) -> frozenset[str]:
        """The names in a grid's folder, which is listed once: a shared disk answers slowly."""
        if step not in self._listed:
            names, folder = set(), self._grid(step)
            if lies_in(folder, self.root):
                with suppress(OSError), os.scandir(folder) as entries:
                    for entry in entries:
                        inside = not entry.is_symlink() or lies_in(Path(entry.path), self.root)
                        if inside and entry.is_file():
                            names.add(entry.name)
            self._listed[step] = frozenset(names)
        return self._listed[step]

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


def _zone(index: float | None) -> str | None:
    return ZONES[int(index)] if index is not None and 0 <= index < len(ZONES) else None


def _position(value: float | None) -> float | None:
    """A position as it was logged; one that is far from 0 to 100, or no number, is none."""
    return value if value is not None and math.isfinite(value) and abs(value) <= 1000 else None
