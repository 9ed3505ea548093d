"""The ``corridor label`` command: label cells blind in a browser, then find the thresholds that agree."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lightning_drift.common import ends
from lightning_drift.common.command_line import TextParser, mark_texts, plain, text_options
from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import check_writable, user_path
from lightning_drift.common.lock import FolderLock
from lightning_drift.common.numbers import whole
from lightning_drift.common.text import command, printable, shell_word
from lightning_drift.corridor.label.exhibit import Exhibit
from lightning_drift.corridor.label.labels import Labels
from lightning_drift.corridor.label.outcome import Outcome, find
from lightning_drift.corridor.label.server import ADDRESS, LabelServer
from lightning_drift.corridor.read import read
from lightning_drift.drift.threshold_file import refuse_foreign, write_thresholds

USAGE = "usage: lightning-drift corridor label FOLDER [FOLDER ...] [--to FILE] [--seed N] [options]"


def label(
    folders: list[str], to: str | None = None, seed: int = 0, port: int = 0, browser: bool = True
) -> int:
    """Say the zone of each cell of finished corridors without knowing which it is, and calibrate the verdict.

    A page in the browser, served by this command to this machine alone, shows the cells in random order
    beside the base model's pictures. What is said is kept in ``labels.json`` of each corridor's folder as it
    is said; the same command goes on. In the end the thresholds that agree best are written to a file for
    ``clip_drift.thresholds``.

    Args:
        folders: Folders of corridors.
        to: The file of thresholds; by default ``thresholds.yaml`` in the folder, where there is only one.
        seed: Of the order.
        port: Where on this machine the page is served; 0 for any free port.
        browser: Open the page in the browser; its address is printed either way.

    Returns:
        The exit status: 0.

    Raises:
        UserError: A folder holds no measured corridor, is being labelled, or cannot be written to.
        Ended: By a signal.
    """
    whole(port, "port", 0, 65535)
    whole(seed, "seed")
    if to is None and len(folders) > 1:
        raise UserError("give the file for the thresholds of several corridors", "to")
    where = [user_path(folder, "folder") for folder in folders]
    if len({os.path.realpath(folder) for folder in where}) < len(where):
        raise UserError("a folder is given twice", "folder")
    file = user_path(to, "to") if to is not None else where[0] / "thresholds.yaml"
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file} is no name of a YAML file; let it end in .yaml", "to")
    tables = [read(folder) for folder in where]
    for remark in [remark for table in tables for remark in table.remarks]:
        notice(remark)
    for folder in (*where, file.parent):
        check_writable(folder, "folder")
    refuse_foreign(file)
    with ExitStack() as locks:
        for folder in where:
            locks.callback(FolderLock(folder, "corridor").release)
        exhibit = Exhibit(tables, seed)
        labels = [Labels(table) for table in tables]
        outcome = _serve(exhibit, labels, file, port, browser)
    print(f"\n{printable_lines(outcome.lines())}\nThresholds: {printable(str(file))}")
    print(f"  use them with: --clip_drift.thresholds {shell_word(str(file))}", flush=True)
    return 0


def _serve(exhibit: Exhibit, labels: list[Labels], file: Path, port: int, browser: bool) -> Outcome:
    """Serve the page until the labeller is done.

    Raises:
        UserError: The port is taken.
        Ended: By a signal; what was said is kept.
    """
    outcomes: list[Outcome] = []

    def finish() -> list[str]:
        outcome = find(exhibit, labels)
        write_thresholds(file, outcome.calibration.thresholds, outcome.remarks())
        outcomes.append(outcome)
        return [*outcome.sentences(), "The terminal tells where the thresholds are, and of each cell."]

    try:
        server = LabelServer(exhibit, labels, finish, port)
    except OSError as error:
        raise UserError(f"cannot listen on {ADDRESS}:{port}: {error.strerror}", "port") from error
    with server:
        count = len(exhibit.cells)
        print(f"{count} cell{'s' * (count != 1)} to look at, in a browser on this machine:\n{server.url}")
        print("Ctrl-C stops; what was said is kept.", flush=True)
        if browser and _has_windows():
            webbrowser.open(server.url)
        try:
            server.serve_forever(poll_interval=0.1)
        except ends.Ended as end:
            with server.saving:
                said = sum(zone is not None for zone in server.said)
            end.reached = f"with {said} of {count} cells labelled, all kept"
            raise
    return outcomes[-1]


def _has_windows() -> bool:
    """Whether a browser would open beside this terminal and not in it."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def printable_lines(lines: Sequence[str]) -> str:
    """Lines for a terminal, each as one."""
    return "\n".join(map(printable, lines))


def main(argv: Sequence[str]) -> int:
    """Run ``lightning-drift corridor label`` with its command line.

    Args:
        argv: The command line behind ``label``.

    Returns:
        The exit status: 0.

    Raises:
        Ended: By a signal.
    """
    about = " ".join((label.__doc__ or "").partition("Args:")[0].split())
    parser = TextParser(
        prog="lightning-drift corridor label", usage=USAGE.removeprefix("usage: "), description=about
    )
    parser.add_argument("folders", type=str, nargs="+", help="Folders of corridors.")
    parser.add_function_arguments(label, as_positional=False, skip={"folders"})
    options = plain(parser.parse_args(mark_texts(argv, text_options(label).get)).as_dict())
    ends.begin()
    try:
        return label(**options)
    except ends.Ended as end:
        end.reached = (
            f"{end.reached or 'before a cell was shown'}; go on with: {command(['corridor', 'label', *argv])}"
        )
        raise
