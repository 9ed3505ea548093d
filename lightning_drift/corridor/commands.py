"""The commands that go on with a cell of a corridor: what one copies from its page."""

import re
from pathlib import Path

from lightning_drift.common.lock import is_held
from lightning_drift.common.text import option, shell_word
from lightning_drift.corridor.inside import lies_in
from lightning_drift.corridor.recorded_run import CorridorCell, RecordedRun
from lightning_drift.corridor.run_config import end
from lightning_drift.corridor.table import CorridorTable

NAMES = {"export": "Export", "dream": "Dream", "print": "Print the dreams", "resume": "Resume the run"}
"""What the commands of a cell are called, by their names, in the order in which a page shows them."""

_PRINT = "lightning-drift predict -c configs/supir.yaml --data.images dreams"
"""``dreams`` is where the command before it writes."""


def export(table: CorridorTable, cell: CorridorCell) -> str:
    """Export a cell's checkpoint as a file for other programs; empty if there is no checkpoint."""
    if cell.checkpoint is None:
        return ""
    file = option("ckpt_path", cell.checkpoint.as_posix())
    title = option("title", f"{table.title}-{cell.run}-step{cell.step:05d}")
    return f"lightning-drift export {file} --to exports {title}"


def dream(cell: CorridorCell) -> str:
    """Render pictures with a cell's checkpoint; empty if there is no checkpoint."""
    if cell.checkpoint is None:
        return ""
    return f"lightning-drift predict {option('model.pipeline', cell.checkpoint.as_posix())}"


def resume(run: RecordedRun, further: int) -> str:
    """Go on with a run in its own folder, from its last checkpoint.

    Args:
        run: The run.
        further: Steps by which a fit that has come to its end is extended.

    Returns:
        Empty where it would be refused: for a soup, without a checkpoint, and while a fit writes the folder.
        What ended the fit is changed, as it would end at once again.
    """
    saved, file = run.saved_up_to(), _configuration(run)
    if run.soup or saved is None or file is None or is_held(run.folder):
        return ""
    config = run.resumes[-1] if run.resumes else run.config
    path = file.as_posix()
    named = option("config", path) if path.startswith("-") else f"-c {shell_word(path)}"
    words = ["lightning-drift fit", named, "--ckpt_path last"]
    last = end(config)
    if last is not None and saved >= last:
        words.append(f"--trainer.max_steps {saved + further}")
    stop = run.stopped((config.get("clip_drift") or {}).get("stop_when"))
    if stop is not None and stop <= saved:
        words.append("--clip_drift.stop_when null")
    return " ".join(words)


def of_cell(table: CorridorTable, cell: CorridorCell, resumed: str) -> dict[str, str]:
    """The commands of a cell by their names; only those that work.

    Args:
        table: The corridor.
        cell: The cell.
        resumed: What resumes its run, which is the same for all its cells.
    """
    made = {"export": export(table, cell), "dream": dream(cell)}
    made |= {"print": _PRINT if made["dream"] else "", "resume": resumed}
    return {name: command for name, command in made.items() if command}


def further(table: CorridorTable) -> int:
    """By how many steps a fit that has come to its end is extended: the corridor's last stride."""
    before, last = ([0, 0, *table.steps])[-2:]
    return last - before or 1


def _configuration(run: RecordedRun) -> Path | None:
    """The file of what ran last in a run's folder; None if it is not there, or lies elsewhere."""

    def step(path: Path) -> int:
        match = re.fullmatch(r"config\.resume-([0-9]{1,18})\.yaml", path.name)
        return int(match[1]) if match else 0

    path = run.folder / "config.yaml"
    if run.resumes:
        path = max(filter(step, run.folder.glob("config.resume-*.yaml")), key=step, default=path)
    return path if path.is_file() and lies_in(path, run.root) else None
