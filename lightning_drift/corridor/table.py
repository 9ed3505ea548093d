"""The table learning rate x steps of a corridor's runs."""

from dataclasses import dataclass, field
from pathlib import Path

from lightning_drift.common.errors import UserError
from lightning_drift.corridor.find_runs import FoundRuns
from lightning_drift.corridor.inside import lies_in
from lightning_drift.corridor.recorded_run import CorridorCell, RecordedRun
from lightning_drift.corridor.run_config import arguments

MOST_PICTURES = 1_000_000
"""Pictures that a page looks for."""


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
