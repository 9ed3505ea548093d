"""What came of the labels, in words."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_drift.common.errors import UserError
from lightning_drift.common.files import read_json
from lightning_drift.common.text import listed, printable
from lightning_drift.corridor.label.exhibit import BlindCell, Exhibit
from lightning_drift.corridor.label.labels import Labels
from lightning_drift.drift.calibration import Calibration, Labelled, calibrate
from lightning_drift.drift.verdict import Thresholds, zone_of


@dataclass(frozen=True)
class Outcome:
    """The labels of cells and the thresholds that agree best with them.

    Attributes:
        exhibit: What was shown.
        said: The labelled cells with their zones.
        calibration: What was found; its thresholds say where they come from.
    """

    exhibit: Exhibit
    said: list[tuple[BlindCell, str]]
    calibration: Calibration

    def sentences(self) -> list[str]:
        """How many labels agree, what moved, and what to be careful of; no cell is named."""
        found, shipped = self.calibration, Thresholds()
        moves = [
            f"{name} from {getattr(shipped, name):g} to {getattr(found.thresholds, name):g}"
            for name in found.moved
        ]
        return [
            f"{_counted(found.labels)}: {found.before} agree with the shipped thresholds, {found.after} with "
            f"those found, {found.left_out} with those found without the label itself.",
            f"Moved: {', '.join(moves)}." if moves else "No threshold was moved: none agrees better.",
            *(f"Take care: {warning}." for warning in found.warnings()),
        ]

    def remarks(self) -> list[str]:
        """The same as comments of the file of thresholds."""
        return [*self.sentences(), "lightning-drift fit --clip_drift.thresholds FILE"]

    def lines(self) -> list[str]:
        """The cells with their labels and verdicts before and after, then the sentences."""
        found = []
        for cell, zone in sorted(
            self.said, key=lambda pair: (pair[0].corridor, pair[0].run.rate, pair[0].step)
        ):
            values = {name: interval.value for name, interval in cell.measures.items()}
            before, after = (zone_of(values, each) for each in (Thresholds(), self.calibration.thresholds))
            now = "" if before == after else f", now {after}"
            found.append(
                f"{self.exhibit.tables[cell.corridor].title}  {cell.run.name} x {cell.step}: label {zone}, "
                f"verdict {before}{now}{'' if after == zone else '  differs'}"
            )
        return [*found, "", *self.sentences()]


def find(exhibit: Exhibit, labels: list[Labels]) -> Outcome:
    """Find the thresholds that agree best with what was said.

    Raises:
        UserError: Nothing was said yet.
    """
    said = []
    for cell in exhibit.cells:
        if (zone := labels[cell.corridor].zones.get(cell.key)) is not None:
            said.append((cell, zone))
    if not said:
        raise UserError("no cell is labelled yet; say the zone of one at least")
    found = calibrate(
        [Labelled({name: each.value for name, each in cell.measures.items()}, zone) for cell, zone in said]
    )
    agree = f"; {found.after} of them agree"
    return Outcome(exhibit, said, found.named(_source(exhibit, said) + agree))


def _source(exhibit: Exhibit, said: list[tuple[BlindCell, str]]) -> str:
    """What the thresholds were calibrated on: labels, photo sets and what measured."""
    titles = dict.fromkeys(exhibit.tables[cell.corridor].title for cell, _ in said)
    measuring = dict.fromkeys(_clip(cell) for cell, _ in said)
    text = f"{_counted(len(said))} of {listed(titles)}, given blind, measured by {listed(measuring)}"
    return printable(text)[:500]


def _counted(labels: int) -> str:
    return f"{labels} label{'s' * (labels != 1)}"


def _clip(cell: BlindCell) -> str:
    path = cell.run.reading(cell.step)
    reading = read_json(path, "reading") if path is not None else {}
    names = (reading.get("clip"), reading.get("image_model"))
    return " and ".join(str(name)[:100] for name in names if name is not None)
