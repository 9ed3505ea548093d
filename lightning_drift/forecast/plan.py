"""The plan of a fit in words: what will run, and what it will take of memory, time, disk and the hub."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_drift.common.text import byte_size, duration
from lightning_drift.forecast.card import CONTEXT, FRAGMENTS, GIB, MARGIN, Card, needed
from lightning_drift.forecast.ledger import PARTS, total
from lightning_drift.forecast.rehearsal import Rehearsal

_NOT_MEASURES = {"step", "late step", "photos", "grids", "decoding"}


@dataclass(frozen=True)
class Times:
    """Seconds of what a fit does over and over.

    Attributes:
        step: An optimizer step.
        grid: The pictures of one milestone; None where there are none.
        how: How that is known, such as "timed on NVIDIA L4".
        late: An optimizer step in which the text encoder has stopped; None where it never does.
    """

    step: float
    grid: float | None
    how: str
    late: float | None = None


@dataclass
class FitPlan:
    """What a fit will do and take.

    Attributes:
        what: What will run: pairs of a heading and a text.
        begin: The step that it begins at.
        end: Its last step; None if it has none.
        grids: The steps at which grids are still to be rendered.
        pictures: Pictures of a grid.
        folder: Where it writes its checkpoints.
        checkpoint: Bytes of a checkpoint; None for an optimizer whose state is not known.
        room: Bytes that checkpoints take at most beside those in the folder; None likewise.
        left: Bytes that they take in the end.
        grid_bytes: Bytes that pictures and sheets take at most.
        free: Bytes that are free in the folder.
        memory: The way the weights are kept.
        reason: Why that way, where it was chosen.
        rehearsals: What was counted, by mode.
        refused: Why a mode cannot run, by mode.
        card: The card that this is compared with; None without one.
        times: Seconds; None where nothing is known.
        untimed: Why not.
        fetched: What will be downloaded, with its bytes where they are known.
        stop: The step from which on the text encoder stands still; None if it never does.
    """

    what: list[tuple[str, str]]
    begin: int
    end: int | None
    grids: list[int]
    pictures: int
    folder: Path
    checkpoint: int | None
    room: int | None
    left: int
    grid_bytes: int
    free: int
    memory: str = "full"
    reason: str = ""
    rehearsals: dict[str, Rehearsal] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    card: Card | None = None
    times: Times | None = None
    untimed: str = ""
    fetched: dict[str, int | None] = field(default_factory=dict)
    stop: int | None = None

    @property
    def steps(self) -> tuple[int, int]:
        """How many steps are left to the end, and how many of them come after the text encoder's stop."""
        end = max(self.end or 0, self.begin)
        stop = end if self.stop is None else min(max(self.stop, self.begin), end)
        return end - self.begin, end - stop

    @property
    def lacks_disk(self) -> bool:
        """Whether its checkpoints do not fit the disk."""
        return self.room is not None and self.room > self.free

    # -- in words ---------------------------------------------------------------------------------------

    def summary(self) -> list[str]:
        """Two lines for the start of a fit."""
        steps = f"steps {self.begin} to {self.end}" if self.end else f"from step {self.begin} on"
        grids = f", {len(self.grids)} grids of {self.pictures} pictures" if self.grids else ""
        told = self.rehearsals.get(self.memory)
        memory = f"memory {self.memory}{f' ({self.reason})' if self.reason else ''}"
        peak = f", at most {told.peak / GIB:.1f} GiB of tensors (forecast)" if told else ""
        return [f"plan: {steps}{grids}; {memory}{peak}", f"disk: {self.disk()}"]

    def disk(self) -> str:
        """What it takes of the disk, against what is free."""
        if self.room is None:
            needs = "what the optimizer keeps is not known, nor what a checkpoint takes"
        elif self.room:
            needs = f"checkpoints take up to {byte_size(self.room)}"
        else:
            needs = "no checkpoint is left to write"
        grids = f", grids up to {byte_size(self.grid_bytes)}" if self.grid_bytes else ""
        return f"{needs}{grids}; {byte_size(self.free)} are free in {self.folder}"

    def describe(self) -> str:
        """All of it."""
        sections = [*self.what, ("memory", self._chosen())]
        if work := self._work():
            sections.append(("work", work))
        sections += [("time", self._time()), ("disk", self.disk())]
        if self.lacks_disk:
            sections.append(("", "there is no room for it: the fit will refuse to start"))
        if self.fetched:
            sections.append(("download", ", ".join(map(self._fetched, self.fetched))))
        width = max(len(heading) for heading, _ in sections)
        lines = [f"{heading:{width}}  {text}" for heading, text in sections]
        return "\n".join([*lines, *self.tables()])

    def _chosen(self) -> str:
        return f"{self.memory}{f': {self.reason}' if self.reason else ''}"

    def _work(self) -> str:
        """Arithmetic of steps, grids and measures, and the share of what is not training."""
        told = self.rehearsals.get(self.memory) or next(iter(self.rehearsals.values()), None)
        if told is None or self.end is None:
            return ""
        count, after = self.steps
        late = told.arithmetic("late step" if "late step" in told.work else "step")
        steps = told.arithmetic("step") * (count - after) + late * after
        pictures, grids = told.arithmetic("grids", "decoding"), len(self.grids)
        measures = told.work.keys() - _NOT_MEASURES
        others = told.arithmetic(*(measures - told.every.keys())) * grids
        for phase in measures & told.every.keys():
            every = told.every[phase]
            first = (self.begin // every + 1) * every
            others += told.arithmetic(phase) * len({*range(first, self.end + 1, every)} - {*self.grids})
        if not steps or not grids:
            return ""

        def share(grids: int) -> str:
            between = pictures * grids + others
            return f"{between / (between + steps):.0%}"

        unit, name = (1e15, "PFLOP") if steps >= 1e15 else (1e12, "TFLOP")
        parts = (
            f"steps {steps / unit:.2f} {name}",
            f"grids {pictures * grids / unit:.2f}",
            f"measures {others / unit:.2f}",
        )
        measured = others / (steps + pictures * grids + others)
        whole = f"{share(grids)} is not training"
        if 0 in self.grids:
            whole += f", {share(grids - 1)} where the base's pictures are on disk"
        return f"{', '.join(parts)}: {whole} (counted; measures are {measured:.1%})"

    def _time(self) -> str:
        if self.times is None:
            return f"not known: {self.untimed}"
        count, after = self.steps
        late = self.times.step if self.times.late is None else self.times.late
        seconds = (count - after) * self.times.step + after * late
        parts = [f"steps about {duration(seconds)}" if self.end else ""]
        if self.times.grid is not None and self.grids:
            parts.append(f"grids about {duration(len(self.grids) * self.times.grid)}")
        return f"{', '.join(filter(None, parts))} ({self.times.how})"

    def _fetched(self, name: str) -> str:
        size = self.fetched[name]
        return f"{name} ({f'about {byte_size(size)}' if size else 'of unknown size'})"

    def tables(self) -> list[str]:
        """Peaks by phase and by part, of each mode."""
        if not self.rehearsals:
            return [""] + [
                f"memory of {mode} is not forecast: {reason}" for mode, reason in self.refused.items()
            ]
        phases = list(dict.fromkeys(phase for told in self.rehearsals.values() for phase in told.peaks))
        most = max(total(parts) for told in self.rehearsals.values() for parts in told.peaks.values())
        unit, name = (GIB, "GiB") if most >= GIB else (2**20, "MiB")
        against = f", against {self.card.name} ({self.card.free / unit:.1f} free)" if self.card else ""
        head = ["", *(["needs", "fits"] if self.card else []), *phases]
        rows = [
            [mode, *self._against(told, unit), *(f"{total(told.peaks[p]) / unit:.2f}" for p in phases)]
            for mode, told in self.rehearsals.items()
        ]
        parts = [
            [mode, *(f"{told.peaks['step'].get(part, 0) / unit:.2f}" for part in PARTS)]
            for mode, told in self.rehearsals.items()
        ]
        return [
            "",
            f"Peaks of memory in {name} (forecast){against}:",
            *_table([head, *rows]),
            *self._notes(),
            "",
            "What the peak of a step is made of:",
            *_table([["", *PARTS], *parts]),
            *(f"{mode} is not possible: {reason}" for mode, reason in self.refused.items()),
        ]

    def _against(self, told: Rehearsal, unit: int) -> list[str]:
        if self.card is None:
            return []
        need = needed(told.peak)
        return [f"{need / unit:.2f}", "yes" if need <= self.card.free else "no"]

    def _notes(self) -> list[str]:
        notes = []
        if self.card is not None:
            notes.append(
                f"(needs: the largest with {FRAGMENTS - 1:.0%} for fragments, {CONTEXT / GIB:g} for CUDA and "
                f"{MARGIN / GIB:g} for what is not counted)"
            )
        movable = {phase for told in self.rehearsals.values() for phase in told.movable}
        if movable:
            notes.append(
                f"({', '.join(sorted(movable))}: on the CPU where the card has no room; not in needs)"
            )
        return notes


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [f"{row[0]:{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
