"""Run folders, ``tb_logs/<subject>/<run>``: where a fit writes, and what it resumes from."""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.files import check_file, check_writable, user_path
from lightning_drift.common.lock import OWN, FolderLock
from lightning_drift.common.ranks import CHILD_RUN
from lightning_drift.fit.checkpoint_file import read_checkpoint
from lightning_drift.fit.resume import check_resumable


@dataclass(frozen=True)
class Run:
    """Where a run's files lie, and where it goes on from.

    Args:
        root: The TensorBoard log folder, ``tb_logs``.
        subject: Groups the runs on one set of photos.
        name: The run's own folder.
        checkpoint: The checkpoint to go on from; None for a fresh start.
        step: That checkpoint's optimizer step, 0 for a fresh start.
    """

    root: Path
    subject: str
    name: str
    checkpoint: Path | None = None
    step: int = 0

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / self.subject / self.name

    def plain(self) -> dict[str, Any]:
        """It as plain values, for the other processes of a run."""
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        return {**asdict(self), "root": str(self.root), "checkpoint": checkpoint}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Run":
        """The run of such values."""
        checkpoint = values["checkpoint"]
        paths = {"root": Path(values["root"]), "checkpoint": None if checkpoint is None else Path(checkpoint)}
        return cls(**{**values, **paths})


class RunFolder:
    """A run's folder, claimed and locked: no other process of this program writes into it.

    Args:
        run: Where it is and what it goes on from.
        lock: The lock on it; None in the further processes of a run on several devices.
        is_new: Whether it was made for this run.
    """

    def __init__(self, run: Run, lock: FolderLock | None, is_new: bool) -> None:
        self.run, self._lock, self._is_new = run, lock, is_new
        self._events = self._event_files()

    def _event_files(self) -> set[Path]:
        return {*self.run.folder.glob("events.out.tfevents.*")}

    def check(self) -> None:
        """Whether the run is this process's still; quick while it is, so to be asked before each write.

        Raises:
            UserError: A process of another computer has taken it over, or may do so soon.
        """
        if self._lock is not None:
            self._lock.check()

    def leave(self, begun: bool = True) -> None:
        """Let go of it. Of a run that could not begin, no folder stays, and of a resume no event file.

        Args:
            begun: Whether a step was taken.
        """
        folder = self.run.folder
        try:
            self.check()
        except UserError:  # what lies there is another's
            if self._lock is not None:
                self._lock.release()
            return
        if not self._is_new and not begun and self._lock is not None:
            # Such a file hides every point after the step resumed from.
            for path in self._event_files() - self._events:
                path.unlink(missing_ok=True)
        listed = folder.iterdir() if self._is_new and folder.is_dir() else ()
        files = [path for path in listed if path.name not in OWN]
        # Lightning opens the event file before anything is checked.
        written = [
            path
            for path in files
            if path.name != "hparams.yaml" and not path.name.startswith("events.out.tfevents.")
        ]
        goes = self._is_new and not written
        if goes:
            for path in files:
                path.unlink()
        if self._lock is not None:
            self._lock.release(leave=not goes)
        if goes:
            with suppress(OSError):  # another process has come meanwhile
                folder.rmdir()
                folder.parent.rmdir()  # only if no other run is in it
                self.run.root.rmdir()


def claim_run(
    root: Path,
    subject: str | None,
    name: str | None,
    ckpt_path: str | None,
    default: tuple[str, str],
    others: Path | None = None,
) -> RunFolder:
    """Decide where a fit writes, and claim that folder for this process.

    With ``ckpt_path`` a named run goes on in its folder. Without it nothing is written into a run that
    exists: a fresh start gets a new folder beside it, which no other fit gets.

    Args:
        root: The TensorBoard log folder.
        subject: The configured subject; None for the default.
        name: The configured run; None for a new one.
        ckpt_path: ``last``, a checkpoint file, or None.
        default: Subject and the beginning of a new run's name.
        others: A further folder with checkpoints of the run, where ``last`` is looked for too.

    Raises:
        UserError: There is nothing to resume, another process writes the run, or the folder cannot be made.
    """
    subject = subject or safe_name(default[0])
    if name is None and ckpt_path == "last":
        raise UserError(
            "'last' is the last checkpoint of a run, and no run is named; pass the run's own "
            f"configuration: lightning-drift fit -c {root}/<subject>/<run>/config.yaml --ckpt_path last",
            "ckpt_path",
        )
    check_writable(root / subject, "trainer.logger.init_args.save_dir")
    try:
        if name is not None and ckpt_path is not None:
            return _resumed(root, subject, name, ckpt_path, others)
        if name is not None and not _used(root / subject / name):
            return _claimed(Run(root, subject, name), ckpt_path)
        if ckpt_path is not None:
            find_checkpoint(ckpt_path, root / subject)  # before a folder is made for it
        run = _new_run(root, subject, safe_name(default[1]))
    except OSError as error:
        raise UserError(
            f"cannot write to {root / subject}: {error.strerror}", "trainer.logger.init_args.save_dir"
        ) from error
    if name is not None:
        notice(
            f"{root / subject / name} holds a run; starting afresh in {run.folder} "
            "(pass --ckpt_path last to go on with it)"
        )
    return _claimed(run, ckpt_path)


def _resumed(root: Path, subject: str, name: str, ckpt_path: str, others: Path | None) -> RunFolder:
    run = Run(root, subject, name)
    checkpoint = find_checkpoint(ckpt_path, run.folder, others)  # before a folder is made for it
    is_new = not run.folder.exists()
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(run.folder)
    try:
        # Again, now that no one writes it.
        checkpoint = find_checkpoint(ckpt_path, run.folder, others, check_resumable)
        step = int(read_checkpoint(checkpoint)["global_step"])
    except UserError:
        if lock is not None:
            lock.release()
        raise
    return RunFolder(Run(root, subject, name, checkpoint, step), lock, is_new)


def _claimed(run: Run, ckpt_path: str | None) -> RunFolder:
    """A new run in a folder that is there or not yet; it may begin from another run's checkpoint."""
    if ckpt_path is not None:
        checkpoint = find_checkpoint(ckpt_path, run.folder, check=check_resumable)
        run = replace(run, checkpoint=checkpoint, step=int(read_checkpoint(checkpoint)["global_step"]))
    run.folder.mkdir(parents=True, exist_ok=True)
    return RunFolder(run, _lock(run.folder), True)


def _lock(folder: Path) -> FolderLock | None:
    """The run's lock, which the first of its processes holds for all of them."""
    return FolderLock(folder, "run") if os.environ.get("LOCAL_RANK", "0") == "0" else None


def _new_run(root: Path, subject: str, stem: str) -> Run:
    """A run with a number of its own. Its folder is made here, which one process alone can do."""
    if "LOCAL_RANK" in os.environ and CHILD_RUN in os.environ:
        return Run(root, subject, os.environ[CHILD_RUN])
    for number in itertools.count():
        run = Run(root, subject, f"{stem}_{number:03d}")
        with suppress(FileExistsError):
            run.folder.mkdir(parents=True)
            os.environ[CHILD_RUN] = run.name
            return run
    raise AssertionError("numbers do not end")


def run_beside(configs: Iterable[Path]) -> Path | None:
    """The run folder that the last of these configurations lies in, if it lies in one.

    A run that was moved or copied is found so: its own configuration still names the place where it began.
    """
    for path in reversed([*configs]):
        folder = path.resolve().parent
        is_run = (folder / "checkpoints").is_dir() or any(folder.glob("events.out.tfevents.*"))
        if re.fullmatch(r"config(\.resume-\d+)?\.yaml", path.name) and is_run:
            return folder
    return None


def find_checkpoint(
    ckpt_path: str,
    folder: Path,
    others: Path | None = None,
    check: Callable[[Path], object] = read_checkpoint,
) -> Path:
    """Resolve ``last``, the newest checkpoint of a run that can be read, or a file name.

    Args:
        ckpt_path: ``last`` or a file name.
        folder: The run folder that ``last`` is looked for in.
        others: Another folder of its checkpoints (``step_checkpoint.dirpath``).
        check: Raises a UserError for a checkpoint that cannot be used; ``last`` passes over it, and says so.

    Raises:
        UserError: There is no such checkpoint, it cannot be used, or none of the run's can.
    """
    if ckpt_path != "last":
        path = user_path(ckpt_path, "ckpt_path")
        if not path.exists():
            raise UserError(f"there is no checkpoint {path}", "ckpt_path")
        check_file(path, "checkpoint", "ckpt_path")
        check(path)
        return path
    steps, damaged = checkpoint_steps(folder, others)
    for path in damaged:
        notice(f"{path} cannot be read and is passed over")
    # After a kill between two saves the newest step checkpoint can be ahead of last.ckpt.
    for path in sorted(steps, key=lambda path: (steps[path], path.name == "last.ckpt"), reverse=True):
        try:
            check(path)
        except UserError as error:
            notice(f"{error.message}. It is passed over")
        else:
            return path
    what = "no checkpoint that can be read" if damaged or steps else "no checkpoint to resume from"
    raise UserError(f"{folder} holds {what}; start afresh without --ckpt_path, or name a file", "ckpt_path")


def checkpoint_steps(folder: Path, others: Path | None = None) -> tuple[dict[Path, int], list[Path]]:
    """A run's checkpoints: those that can be read, with their steps, and those that cannot.

    Args:
        folder: The run folder.
        others: Another folder of its checkpoints (``step_checkpoint.dirpath``).
    """
    steps: dict[Path, int] = {}
    damaged: list[Path] = []
    places = [folder / "checkpoints", *([others] if others else [])]
    for path in sorted(path for place in places for path in place.glob("*.ckpt") if path.is_file()):
        try:
            steps[path] = int(read_checkpoint(path)["global_step"])
        except UserError:
            damaged.append(path)
    return steps, damaged


def run_name(version: int | str | None) -> str | None:
    """The run's folder that a logger's ``version`` names; Lightning makes ``version_3`` of the number 3.

    >>> run_name(3)
    'version_3'
    """
    return f"version_{version}" if isinstance(version, int) else version


def rate_text(rate: float) -> str:
    """A learning rate as people write it.

    >>> rate_text(0.00016)
    '1.6e-4'
    """
    mantissa, _, exponent = f"{rate:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def rate_name(rate: float) -> str:
    """What the name of a run at a learning rate begins with.

    >>> rate_name(2e-6)
    'lr2e-6'
    """
    return f"lr{rate_text(rate)}"


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, if it lies in one."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None


def safe_name(text: str) -> str:
    """A folder name: letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^\w.\-]+", "-", text).strip("-.") or "run"


def _used(folder: Path) -> bool:
    return folder.is_dir() and any(path.name not in OWN for path in folder.iterdir())
